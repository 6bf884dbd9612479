//! Bytes that are being read.

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use super::shared::{Pin, Shared};

/// The bytes of a key, pinned where they are until it is dropped.
///
/// One that is forgotten (`mem::forget`) pins them as long as the store exists.
pub struct ReadGuard<'a> {
    shared: &'a Shared,
    pin: Pin<'a>,
    /// Not a reference, for the bytes may change while the guard is being dropped.
    bytes: NonNull<[u8]>,
}

// SAFETY: it gives out `&[u8]` only, and any thread may end a pin.
unsafe impl Send for ReadGuard<'_> {}
// SAFETY: as above.
unsafe impl Sync for ReadGuard<'_> {}

impl<'a> ReadGuard<'a> {
    /// # Safety
    /// The pin is held, for the guard, and `bytes` are those of its block.
    #[inline]
    pub(super) unsafe fn new(shared: &'a Shared, pin: Pin<'a>, bytes: NonNull<[u8]>) -> Self {
        Self { shared, pin, bytes }
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: a pinned block neither moves nor changes.
        unsafe { self.bytes.as_ref() }
    }
}

impl AsRef<[u8]> for ReadGuard<'_> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.shared.unpin(&self.pin);
    }
}

impl fmt::Debug for ReadGuard<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ReadGuard").field(&&**self).finish()
    }
}
