//! The shortest form, under its public crate name, where the lints deny what an expansion consists
//! of: a program without unsafe code of its own can install the allocator.
#![deny(unsafe_code, missing_docs, unreachable_pub, unused, missing_debug_implementations)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::pedantic)]

extern crate self as heapswitch;

#[expect(
    unsafe_code,
    missing_debug_implementations,
    clippy::pedantic,
    clippy::new_without_default,
    reason = "it stands in for another crate"
)]
mod stand_in;
#[doc(hidden)]
pub use stand_in::__private;

use std::any::TypeId;
use std::sync::atomic::Ordering;

use __private::strategy::{ContextChoice, Slab};
use __private::{Configuration, CurrentAllocatorInUse, Given, LifetimeHint, Settings};

heapswitch_macros::global_thread_and_coroutine_switchable_allocator!();

type Installed = GlobalThreadAndCoroutineSwitchableAllocator;

#[test]
fn is_the_programs_allocator() {
    let calls = || __private::CALLS.load(Ordering::Relaxed);
    let before = calls();
    drop(std::hint::black_box(Box::new(7)));
    assert!(calls() >= before + 2);
}

#[test]
fn has_the_documented_defaults() {
    assert_eq!(
        TypeId::of::<<Installed as Configuration>::Coroutine>(),
        TypeId::of::<ContextChoice>()
    );
    assert_eq!(TypeId::of::<<Installed as Configuration>::Thread>(), TypeId::of::<Slab>());
    assert_eq!(Installed::COROUTINE.given, Given::Hint(LifetimeHint::Short));
    assert_eq!(Installed::THREAD.given, Given::Nothing);
    assert_eq!(Installed::DEFAULT, CurrentAllocatorInUse::ThreadLocal);
    assert_eq!(Installed::SETTINGS, Settings::new());
    let _: &'static std::alloc::System = Installed::global();
}

#[test]
fn is_a_plain_unit_struct() {
    let copied = Installed::default();
    let names = format!("{:?}", (copied, copied));
    let name = "GlobalThreadAndCoroutineSwitchableAllocator";
    assert_eq!(names, format!("({name}, {name})"));
}
