//! Generates the items. Every path into the runtime goes through its one hidden module.

use proc_macro2::{Literal, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::Ident;
use syn::spanned::Spanned;

use crate::ast::{
    ChosenSource, ChosenStrategy, Configuration, Declaration, GlobalAllocator, Scalar, Setting,
    Source,
};

/// The type, its two implementations and, if wanted, its installation.
pub(crate) fn expand(configuration: &Configuration) -> TokenStream {
    let crate_path = &configuration.runtime;
    let runtime = quote!(#crate_path::__private);
    let name = &configuration.declaration.name;
    let unit_struct = unit_struct(&configuration.declaration);
    let implementation = configuration_impl(configuration, &runtime);
    let global_alloc = global_alloc_impl(name, &runtime);
    let installation = match configuration.install {
        Scalar::Flag(false) => TokenStream::new(),
        _ => installation(name),
    };
    quote! {
        #unit_struct
        #implementation
        #global_alloc
        #installation
    }
}

/// The declared type, documented even where the declaration is not.
pub(crate) fn unit_struct(declaration: &Declaration) -> TokenStream {
    let Declaration { docs, visibility, name } = declaration;
    let default_docs = docs.is_empty().then(|| {
        quote! {
            /// The program's allocator: each request is served by the allocator that is current on
            /// its thread, the coroutine's, the thread's or the global one.
        }
    });
    quote! {
        #default_docs
        #(#docs)*
        #[derive(
            ::core::clone::Clone,
            ::core::marker::Copy,
            ::core::fmt::Debug,
            ::core::default::Default
        )]
        #visibility struct #name;
    }
}

fn configuration_impl(configuration: &Configuration, runtime: &TokenStream) -> TokenStream {
    let name = &configuration.declaration.name;
    let (coroutine_type, coroutine) = strategy(&configuration.coroutine, runtime);
    let (thread_type, thread) = strategy(&configuration.thread, runtime);
    let GlobalAllocator { value_type: global_type, value: global } = &configuration.global;
    let default = scalar(configuration.default, runtime);
    let settings = configuration.settings.iter().map(|Setting { method, value }| {
        let (method, value) = (format_ident!("{method}"), scalar(*value, runtime));
        quote!(.#method(#value))
    });
    let sources = configuration.sources.iter().map(|chosen| source(chosen, runtime));
    // The static's name is unlikely because `global` may name anything of its scope.
    quote! {
        unsafe impl #runtime::Configuration for #name {
            type Coroutine = #coroutine_type;
            type Thread = #thread_type;
            type Global = #global_type;
            const COROUTINE: #runtime::StrategySettings<Self::Coroutine> = #coroutine;
            const THREAD: #runtime::StrategySettings<Self::Thread> = #thread;
            const DEFAULT: #runtime::CurrentAllocatorInUse = #default;
            const SETTINGS: #runtime::Settings = #runtime::Settings::new() #(#settings)*;
            #[inline]
            fn global() -> &'static Self::Global {
                static HEAPSWITCH_GLOBAL: #global_type = #global;
                &HEAPSWITCH_GLOBAL
            }
            #(#sources)*
        }
    }
}

/// The function that gives a source. The compiler tells whether the program's own is one.
fn source(source: &Source, runtime: &TokenStream) -> TokenStream {
    let function = format_ident!("{}", source.of.function);
    let body = match &source.chosen {
        ChosenSource::Static(path) => quote_spanned! { path.span() =>
            ::core::option::Option::Some(&#path)
        },
        ChosenSource::Made { paths, settings } => {
            let in_use = scalar(Scalar::Constant(source.of.in_use), runtime);
            let settings = settings.iter().map(|setting| scalar(*setting, runtime));
            let source_type = format_ident!("{}", paths.type_name);
            let constructor = format_ident!("{}", paths.constructor);
            quote! {
                static HEAPSWITCH_SOURCE: #runtime::sources::#source_type =
                    #runtime::sources::#constructor(#in_use, #(#settings),*);
                ::core::option::Option::Some(&HEAPSWITCH_SOURCE)
            }
        }
    };
    quote! {
        #[inline]
        fn #function() -> ::core::option::Option<&'static dyn #runtime::RegionSource> {
            #body
        }
    }
}

fn global_alloc_impl(name: &Ident, runtime: &TokenStream) -> TokenStream {
    quote! {
        unsafe impl ::core::alloc::GlobalAlloc for #name {
            #[inline]
            unsafe fn alloc(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                unsafe { #runtime::alloc::<Self>(layout) }
            }
            #[inline]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: ::core::alloc::Layout) {
                unsafe { #runtime::dealloc::<Self>(ptr, layout) }
            }
            #[inline]
            unsafe fn realloc(
                &self,
                ptr: *mut u8,
                layout: ::core::alloc::Layout,
                new_size: usize
            ) -> *mut u8 {
                unsafe { #runtime::realloc::<Self>(ptr, layout, new_size) }
            }
            #[inline]
            unsafe fn alloc_zeroed(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                unsafe { #runtime::alloc_zeroed::<Self>(layout) }
            }
        }
    }
}

/// In a scope of its own, so that the static clashes with nothing.
fn installation(name: &Ident) -> TokenStream {
    quote! {
        const _: () = {
            #[global_allocator]
            static HEAPSWITCH_INSTALLED: #name = #name;
        };
    }
}

/// The strategy's type and its settings.
fn strategy(chosen: &ChosenStrategy, runtime: &TokenStream) -> (TokenStream, TokenStream) {
    let type_name = format_ident!("{}", chosen.paths.type_name);
    let constructor = format_ident!("{}", chosen.paths.constructor);
    let settings = chosen.settings.iter().map(|setting| scalar(*setting, runtime));
    (
        quote!(#runtime::strategy::#type_name),
        quote!(#runtime::settings::#constructor(#(#settings),*)),
    )
}

fn scalar(value: Scalar, runtime: &TokenStream) -> TokenStream {
    match value {
        Scalar::Flag(flag) => flag.to_token_stream(),
        // Without a suffix: the runtime's signature decides the type.
        Scalar::Bytes(number) | Scalar::Number(number) => {
            Literal::u64_unsuffixed(number).to_token_stream()
        }
        Scalar::Constant(path) => {
            let segments = path.split("::").map(|name| Ident::new(name, Span::call_site()));
            quote!(#runtime #(::#segments)*)
        }
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use crate::generate;

    /// Compares tokens, so that the expected ones are formatted for their reader.
    #[track_caller]
    fn assert_generates(input: super::TokenStream, expected: &str) {
        // Neither blanks nor the kind of a documentation's literal come out as they went in.
        let plain = |tokens: super::TokenStream| {
            tokens.to_string().replace("r\" ", "\" ").split_whitespace().collect::<String>()
        };
        assert_eq!(plain(generate(input)), plain(expected.parse().unwrap()));
    }

    #[test]
    fn the_shortest_form() {
        assert_generates(quote!(), include_str!("../tests/expansion/shortest.rs"));
    }

    #[test]
    fn every_key() {
        let input = quote! {
            /// Mine.
            pub struct Mine;
            coroutine = bit_set(block_bytes = 64),
            thread = context(hint = long),
            global: Counting<System> = Counting::new(System),
            default = global,
            coroutine_source = arena(maximum_bytes = 1 GiB),
            thread_source = arena(range_bytes = 2 MiB),
            install = false,
            region_bytes = 1 GiB,
            coroutine_huge_pages = transparent,
            thread_huge_pages = never,
            coroutine_placement = interleave,
            thread_placement = local,
            decay_milliseconds = 250,
            purge_thread = true,
            statistics = false,
            call_sites = all,
            crate = ::renamed,
        };
        assert_generates(input, include_str!("../tests/expansion/every_key.rs"));
    }

    #[test]
    fn a_source_of_the_programs_own() {
        let generated = generate(quote!(thread_source = crate::own::ARENA)).to_string();
        assert!(generated.contains("Option :: Some (& crate :: own :: ARENA)"), "{generated}");
    }

    #[test]
    fn a_mistake() {
        let input = quote! { struct Mine; thread = slob };
        assert_generates(input, include_str!("../tests/expansion/mistake.rs"));
    }
}
