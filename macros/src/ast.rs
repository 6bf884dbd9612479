//! What was written ([`Entry`], [`Value`]), and what it means once checked ([`Configuration`]).

use proc_macro2::{Group, TokenStream};
use quote::ToTokens;
use syn::{Attribute, Expr, Ident, Lit, LitInt, Path, Type, Visibility};

use crate::table::{Paths, SourceOf};

/// `/// docs` `pub struct Name;`
pub(crate) struct Declaration {
    /// Documentation only, checked when it is read.
    pub(crate) docs: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) name: Ident,
}

/// `key = value` or `key: type = value`.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    pub(crate) value_type: Option<Type>,
    pub(crate) value: Value,
}

/// A value by its shape alone; whether the key takes that shape is a later question.
pub(crate) enum Value {
    /// `slab`
    Word(Ident),
    /// `bit_set(block_bytes = 32)`: what stands in the parentheses is read once the word is known.
    Call(Ident, Group),
    /// `1 TiB`, `1TiB` or `1099511627776`
    Size(LitInt, Option<Ident>),
    /// `true`, `"text"`, `1.5`
    Literal(Lit),
    /// `mimalloc::MiMalloc`, `Counter::new()`
    Expression(Expr),
}

impl Value {
    /// `Word` and `Expression` hold one-segment and longer paths; this sees both as paths.
    pub(crate) fn as_path(&self) -> Option<Path> {
        match self {
            Self::Word(word) => Some(Path::from(word.clone())),
            Self::Expression(Expr::Path(path)) if path.qself.is_none() && path.attrs.is_empty() => {
                Some(path.path.clone())
            }
            _ => None,
        }
    }
}

/// The tokens as written, so that an error about the value underlines all of it.
impl ToTokens for Value {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Word(word) => word.to_tokens(tokens),
            Self::Call(word, arguments) => {
                word.to_tokens(tokens);
                arguments.to_tokens(tokens);
            }
            Self::Size(number, unit) => {
                number.to_tokens(tokens);
                unit.to_tokens(tokens);
            }
            Self::Literal(literal) => literal.to_tokens(tokens),
            Self::Expression(expression) => expression.to_tokens(tokens),
        }
    }
}

/// Everything the expansion needs, all of it checked.
pub(crate) struct Configuration {
    pub(crate) declaration: Declaration,
    /// The crate whose hidden module is called.
    pub(crate) runtime: Path,
    pub(crate) coroutine: ChosenStrategy,
    pub(crate) thread: ChosenStrategy,
    pub(crate) global: GlobalAllocator,
    /// Only those that are not the runtime's default.
    pub(crate) sources: Vec<Source>,
    /// The allocator that is current when a thread starts.
    pub(crate) default: Scalar,
    pub(crate) install: Scalar,
    /// Only what was written: the rest is the runtime's own default.
    pub(crate) settings: Vec<Setting>,
}

/// A strategy and the value of each of its settings, in the table's order.
pub(crate) struct ChosenStrategy {
    pub(crate) paths: &'static Paths,
    pub(crate) settings: Vec<Scalar>,
}

/// A source, and whose heaps it is for.
pub(crate) struct Source {
    pub(crate) of: &'static SourceOf,
    pub(crate) chosen: ChosenSource,
}

/// A source of chunks.
pub(crate) enum ChosenSource {
    /// The path of the program's own static.
    Static(syn::Path),
    /// One that the macro makes, and the value of each of its settings, in the table's order.
    Made { paths: &'static Paths, settings: Vec<Scalar> },
}

/// The type and the initial value of a static.
pub(crate) struct GlobalAllocator {
    pub(crate) value_type: TokenStream,
    pub(crate) value: TokenStream,
}

/// One `.method(value)` on the runtime's settings.
pub(crate) struct Setting {
    pub(crate) method: &'static str,
    pub(crate) value: Scalar,
}

/// A checked value that is neither a type nor a strategy.
#[derive(Clone, Copy)]
pub(crate) enum Scalar {
    /// A constant's path in the runtime's hidden module.
    Constant(&'static str),
    Flag(bool),
    Bytes(u64),
    Number(u64),
}
