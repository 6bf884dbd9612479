//! The procedural macro of heapswitch, which re-exports it: use it through that crate.
//!
//! A pipeline of files, each using only those before it: [`nearest`] finds what a wrong word may
//! mean, [`table`] has the keys and strategies, [`ast`] the forms of the input, [`args`] reads the
//! tokens, [`valid`] checks the values, [`expand`] generates the items, and [`fallback`] those that
//! stand beside errors.
#![forbid(unsafe_code)]
#![expect(rustdoc::private_intra_doc_links, reason = "the reader of this page has the source")]

mod args;
mod ast;
mod expand;
mod fallback;
mod nearest;
mod table;
mod valid;

use proc_macro::TokenStream;

/// Declares the program's allocator: one that coroutines and threads switch.
///
/// It generates a unit struct and makes it the `#[global_allocator]`. Each request is then served
/// by the allocator that is current on its thread: the running coroutine's own heap, the thread's
/// own heap, or the global allocator. Freeing looks at the address and never at what is current.
///
/// # Syntax
///
/// Everything has a default, so the shortest form is a whole one:
///
/// ```standalone_crate
/// # extern crate self as heapswitch;
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in/mod.rs"));
/// # pub use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;
/// heapswitch::global_thread_and_coroutine_switchable_allocator!();
/// # fn main() {}
/// ```
///
/// Otherwise the braces hold, first, the type to declare, if its name, visibility or documentation
/// is to be yours; then keys with their values, each at most once and in any order:
///
/// ```standalone_crate
/// # extern crate self as heapswitch;
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in/mod.rs"));
/// # pub use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;
/// heapswitch::global_thread_and_coroutine_switchable_allocator! {
///     /// Requests are coroutines: their memory goes back at once.
///     pub struct MyAllocator;
///     coroutine = bump,
///     thread = slab,
///     global = std::alloc::System,
///     default = thread,
///     region_bytes = 256 GiB,
///     thread_huge_pages = transparent,
/// }
/// # fn main() {}
/// ```
///
/// Without a declaration the type is
/// `pub(crate) struct GlobalThreadAndCoroutineSwitchableAllocator;`. It implements `Clone`, `Copy`,
/// `Debug`, `Default` and `GlobalAlloc`.
///
/// # Keys
///
#[doc = include_str!("keys.md")]
///
/// A size is a whole number of bytes, or one with a unit: `KiB`, `MiB`, `GiB` or `TiB`.
///
/// `global` is a path where that names both a type and its value, as a unit struct's does. For any
/// other allocator write the type too, as for a `static`; the expression is its initial value:
///
/// ```standalone_crate
/// # extern crate self as heapswitch;
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in/mod.rs"));
/// # pub use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;
/// # pub struct Counting<A>(A);
/// # impl<A> Counting<A> { const fn new(allocator: A) -> Self { Self(allocator) } }
/// # unsafe impl<A: std::alloc::GlobalAlloc> std::alloc::GlobalAlloc for Counting<A> {
/// #     unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
/// #         unsafe { self.0.alloc(layout) }
/// #     }
/// #     unsafe fn dealloc(&self, ptr: *mut u8, layout: std::alloc::Layout) {
/// #         unsafe { self.0.dealloc(ptr, layout) }
/// #     }
/// # }
/// heapswitch::global_thread_and_coroutine_switchable_allocator! {
///     global: Counting<std::alloc::System> = Counting::new(std::alloc::System),
/// }
/// # fn main() {}
/// ```
///
/// The global allocator's type must be at least as visible as the declared type: for a private one,
/// declare `struct Name;`.
///
/// # Strategies
///
/// How a local heap cuts its memory up. Settings stand in parentheses, as in
/// `bit_set(block_bytes = 64)`.
///
#[doc = include_str!("strategies.md")]
///
/// `memory_map` is for coroutines only: nearly all blocks of a thread's heap are small.
///
/// # Sources
///
/// Where local heaps take their memory from, in chunks of 64 KiB or more.
///
#[doc = include_str!("sources.md")]
///
/// ```standalone_crate
/// # extern crate self as heapswitch;
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in/mod.rs"));
/// # pub use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;
/// heapswitch::global_thread_and_coroutine_switchable_allocator! {
///     coroutine_source = arena(maximum_bytes = 1 GiB),
/// }
/// # fn main() {}
/// ```
///
/// Where a source has no more, the global allocator serves, and counts it. Only memory of the
/// region may back a heap, for there an address tells its owner: the type system refuses other
/// sources.
/// A static with another granule than 64 KiB ends the program at its first allocation, with a
/// message. What a heap gives back to a source is the source's: decay and purges do not reach what
/// an arena keeps.
///
/// # Several allocators in one program
///
/// A program has one installed allocator; the compiler refuses a second. With `install = false` the
/// type is generated and not installed, to be wrapped in another allocator or installed by hand:
///
/// ```standalone_crate
/// # extern crate self as heapswitch;
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in/mod.rs"));
/// # pub use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;
/// heapswitch::global_thread_and_coroutine_switchable_allocator! {
///     struct MyAllocator;
///     install = false,
/// }
///
/// #[global_allocator]
/// static ALLOCATOR: MyAllocator = MyAllocator;
/// # fn main() {}
/// ```
///
/// # Errors
///
/// Wrong input is a compile error at the token that is wrong, and says what to write. All mistakes
/// are reported at once.
///
/// # Unsafe code
///
/// The generated code holds `unsafe`, and a crate with `#![forbid(unsafe_code)]` can use the macro
/// all the same: that lint does not look into what other crates' macros generate.
#[proc_macro]
pub fn global_thread_and_coroutine_switchable_allocator(input: TokenStream) -> TokenStream {
    generate(input.into()).into()
}

/// The whole pipeline, on tokens that the tests can make too.
fn generate(input: proc_macro2::TokenStream) -> proc_macro2::TokenStream {
    match valid::check(args::read(input)) {
        Ok(configuration) => expand::expand(&configuration),
        Err(invalid) => fallback::expand(invalid),
    }
}
