//! A thread's own memory policy, while a guard lives.

use core::marker::PhantomData;

use super::{Outcome, Placement};
use crate::sys::SystemError;
use crate::sys::policy::{self, Mode, RawPolicy};

/// Holds a policy on the thread that made it; dropping it restores the one before.
///
/// The policy decides where pages lie that the thread touches first, in ranges without a policy of
/// their own. Guards are to be dropped in the reverse order in which they were made: each restores
/// what it found.
///
/// ```
/// use heapswitch::numa::{Node, Placement, Policy};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return; }
/// let node = Node::new(0).unwrap();
/// let guard = Placement::new(Policy::Preferred(node)).hold_on_thread();
/// println!("{:?}", guard.outcome());
/// let table = vec![1_u64; 1 << 20];
/// drop(guard);
/// # drop(table);
/// ```
#[derive(Debug)]
#[must_use = "dropping it restores the thread's policy"]
pub struct ThreadPolicy {
    /// What to restore; `None` where nothing was changed.
    previous: Option<RawPolicy>,
    outcome: Outcome,
    /// The policy is this thread's.
    not_send: PhantomData<*const ()>,
}

/// What a thread has whose policy cannot be asked for.
const DEFAULT: RawPolicy =
    RawPolicy { mode: Mode::Default, mode_flags: 0, nodes: [0; policy::NODE_BITS / 64] };

impl Placement {
    /// Makes it this thread's policy (`set_mempolicy`) until the guard is dropped. Pages that are
    /// there already stay.
    ///
    /// As [`apply`](Self::apply) it never fails: the [outcome](ThreadPolicy::outcome) tells what
    /// the kernel refused.
    pub fn hold_on_thread(&self) -> ThreadPolicy {
        let previous = policy::policy_of(None).unwrap_or(DEFAULT);
        let outcome = self.ask(policy::set_thread_policy);
        let is_changed = !matches!(outcome, Outcome::Refused { .. });
        ThreadPolicy { previous: is_changed.then_some(previous), outcome, not_send: PhantomData }
    }
}

impl ThreadPolicy {
    /// What became of what was asked.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Restores the policy before, as dropping does, and tells whether the system took it.
    ///
    /// # Errors
    /// The system's: the thread goes on with the policy that it has.
    pub fn restore(mut self) -> Result<(), SystemError> {
        self.previous.take().as_ref().map_or(Ok(()), policy::set_thread_policy)
    }
}

impl Drop for ThreadPolicy {
    fn drop(&mut self) {
        if let Some(previous) = self.previous.take() {
            // Who wants to know calls `restore`.
            let _ = policy::set_thread_policy(&previous);
        }
    }
}
