//! The only pointer arithmetic of the crate. Every function but [`of_exposed`] and [`of_number`]
//! keeps provenance.

use core::ptr::NonNull;

/// `pointer + bytes`.
///
/// # Safety
/// The result lies in, or at the end of, the allocation that `pointer` points into.
#[inline]
pub unsafe fn forward(pointer: NonNull<u8>, bytes: usize) -> NonNull<u8> {
    // SAFETY: by the contract the result is inside the allocation, so it is not null either.
    unsafe { pointer.add(bytes) }
}

/// `pointer - bytes`.
///
/// # Safety
/// The result lies in the allocation that `pointer` points into.
#[inline]
pub unsafe fn backward(pointer: NonNull<u8>, bytes: usize) -> NonNull<u8> {
    // SAFETY: by the contract the result is inside the allocation.
    unsafe { pointer.sub(bytes) }
}

/// The `index`-th element of a row that starts at `first`.
///
/// # Safety
/// It lies in the allocation that `first` points into.
#[inline]
pub unsafe fn element<T>(first: NonNull<T>, index: usize) -> NonNull<T> {
    // SAFETY: the caller's contract.
    unsafe { first.add(index) }
}

/// Lets [`of_exposed`] and [`of_number`] reach the allocation that `pointer` points into, which
/// must be known beyond the compiled code in any case: mapped by the kernel, say, or stored where
/// others read.
pub fn expose(pointer: NonNull<u8>) {
    let _ = pointer.as_ptr().expose_provenance();
}

/// A pointer to `word >> SHIFT`, an address in an allocation that was [exposed](expose).
///
/// # Safety
/// The address is not 0.
#[inline]
pub unsafe fn of_exposed<const SHIFT: u32>(word: u64) -> NonNull<u8> {
    let pointer: *mut u8;
    // Written out, for of a pointer that it made of a number the compiler does not see that it is
    // not null: it tests it, which is a tenth of what allocating from a bump heap takes.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: changes the one register.
    unsafe {
        core::arch::asm!(
            "shr {word}, {shift}",
            word = inlateout(reg) word => pointer,
            shift = const SHIFT,
            options(pure, nomem, nostack)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        pointer = core::ptr::with_exposed_provenance_mut((word >> SHIFT) as usize);
    }
    // SAFETY: the caller's contract.
    unsafe {
        core::hint::assert_unchecked(!pointer.is_null());
        NonNull::new_unchecked(pointer)
    }
}

/// A number for what lies at an address and is a byte long or more: the address and one. So the
/// compiler sees that it is not 0, which a pointer loses on the way through a number. Of what is
/// about to be stored it sees that it is there already if it is a number, and not if it is a
/// pointer.
///
/// # Safety
/// `pointer` is not the last address: no block lies there, nor anything in one.
#[inline]
pub unsafe fn number(pointer: NonNull<u8>) -> usize {
    // SAFETY: the caller's contract.
    unsafe { pointer.addr().get().unchecked_add(1) }
}

/// A pointer to what has the [`number`], in an allocation that was [exposed](expose); none if it is
/// 0.
///
/// # Safety
/// `number` is 0 or came from there.
#[inline]
pub unsafe fn of_number(number: usize) -> Option<NonNull<u8>> {
    if number == 0 {
        return None;
    }
    // SAFETY: the caller's contract: it is above 1.
    unsafe {
        let pointer = core::ptr::with_exposed_provenance_mut(number.unchecked_sub(1));
        Some(NonNull::new_unchecked(pointer))
    }
}

/// How far `pointer` lies above `base`; wraps where it lies below, so that one unsigned compare
/// tests both ends of a range.
#[inline]
pub fn distance(base: NonNull<u8>, pointer: NonNull<u8>) -> usize {
    pointer.addr().get().wrapping_sub(base.addr().get())
}

/// `base + bytes`, wherever that is: for an address that is used only if it is right.
///
/// # Safety
/// The sum is not 0.
#[inline]
pub unsafe fn anywhere(base: NonNull<u8>, bytes: usize) -> NonNull<u8> {
    // SAFETY: the caller's contract.
    unsafe { NonNull::new_unchecked(base.as_ptr().wrapping_add(bytes)) }
}

/// Has the processor fetch what lies `bytes` above `base`, wherever that is: nothing is read.
#[inline]
pub fn prefetch(base: NonNull<u8>, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which for no address at all does anything else.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(base.as_ptr().wrapping_add(bytes).cast()) };
    }
    let _ = (base, bytes);
}

/// Whether `pointer` is a multiple of `alignment`, a power of two.
#[inline]
pub fn is_aligned(pointer: NonNull<u8>, alignment: usize) -> bool {
    pointer.addr().get() & (alignment - 1) == 0
}

/// The bytes from `pointer` up to the next multiple of `alignment`, a power of two.
#[inline]
pub fn padding(pointer: NonNull<u8>, alignment: usize) -> usize {
    pointer.addr().get().wrapping_neg() & (alignment - 1)
}

/// A block of `length` bytes at `start`.
#[inline]
pub fn block(start: NonNull<u8>, length: usize) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(start, length)
}

/// A well-aligned pointer that no block ever has: what a zero-sized request gets.
#[inline]
pub fn dangling(alignment: usize) -> NonNull<u8> {
    match core::num::NonZeroUsize::new(alignment) {
        Some(address) => NonNull::without_provenance(address),
        None => NonNull::dangling(),
    }
}
