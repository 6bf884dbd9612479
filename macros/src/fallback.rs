//! What is generated beside the errors: a type of the right name, so that its uses are no errors
//! too.

use proc_macro2::TokenStream;
use quote::quote;

use crate::expand::unit_struct;
use crate::valid::Invalid;

/// The errors, and a type that can stand wherever an allocator can. It never runs.
pub(crate) fn expand(invalid: Invalid) -> TokenStream {
    let errors = invalid.error.into_compile_error();
    let Some(declaration) = invalid.declaration else {
        return errors;
    };
    let (unit_struct, name) = (unit_struct(&declaration), &declaration.name);
    quote! {
        #errors
        #unit_struct
        unsafe impl ::core::alloc::GlobalAlloc for #name {
            unsafe fn alloc(&self, _: ::core::alloc::Layout) -> *mut u8 {
                ::core::ptr::null_mut()
            }
            unsafe fn dealloc(&self, _: *mut u8, _: ::core::alloc::Layout) {}
        }
    }
}
