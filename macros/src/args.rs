//! Reads the tokens: an optional declaration, then `key = value` separated by commas.
//!
//! An error does not end the reading. It is kept, and reading goes on with the next `, key =`, so
//! that one compilation shows every mistake, each once.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Expr, Ident, Lit, LitFloat, LitInt, Result, Token, Visibility};

use crate::ast::{Declaration, Entry, Value};
use crate::table::{Key, Role};

/// What was read.
pub(crate) struct Input {
    pub(crate) declared: Declared,
    pub(crate) entries: Vec<Entry>,
    pub(crate) errors: Errors,
}

/// Whether a type was declared.
pub(crate) enum Declared {
    /// No: it has the default name.
    No,
    Yes(Declaration),
    /// Something was, but it cannot be read, so the type's name is not known.
    Unreadable,
}

/// The errors so far.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    /// Keeps one more.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            none => *none = Some(error),
        }
    }

    /// The value of a result, or none after its error is kept.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// All of them, if there are any.
    pub(crate) fn into_error(self) -> Option<syn::Error> {
        self.0
    }
}

/// What a list's reader must know about a key to read its value.
pub(crate) struct Expected {
    /// What the key takes, as a sentence's object.
    pub(crate) takes: String,
    /// The key with a value, as one would write it.
    pub(crate) example: String,
    /// Whether `key: type = expression` is a way to write it.
    pub(crate) may_have_type: bool,
}

/// Reads the macro's whole input.
pub(crate) fn read(tokens: TokenStream) -> Input {
    let read = |input: ParseStream<'_>| {
        let mut errors = Errors::default();
        let declared = match declaration(input) {
            Ok(None) => Declared::No,
            Ok(Some(declaration)) => Declared::Yes(declaration),
            Err(error) => {
                errors.push(error);
                skip_declaration(input);
                Declared::Unreadable
            }
        };
        let entries = list(input, "`thread = slab`", key_expected, &mut errors);
        Ok(Input { declared, entries, errors })
    };
    read.parse2(tokens).unwrap_or_else(|error| Input {
        declared: Declared::Unreadable,
        entries: Vec::new(),
        errors: Errors(Some(error)),
    })
}

/// Reads `key = value` up to the end. `expected` knows the keys; `example` is for whoever wrote
/// something else.
pub(crate) fn list(
    input: ParseStream<'_>,
    example: &str,
    expected: impl Fn(&Ident) -> Result<Expected>,
    errors: &mut Errors,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    while !input.is_empty() {
        let read = entry(input, example, &expected).and_then(|entry| {
            comma(input, &entry)?;
            match entries.iter().any(|earlier| earlier.key == entry.key) {
                false => Ok(entry),
                true => Err(twice(&entry.key)),
            }
        });
        match read {
            Ok(entry) => entries.push(entry),
            // Behind a duplicate, and behind a forgotten comma, the next entry begins at once.
            Err(error) => {
                errors.push(error);
                if !at_entry(input) {
                    skip_entry(input);
                }
            }
        }
    }
    entries
}

fn twice(key: &Ident) -> syn::Error {
    syn::Error::new(key.span(), format!("`{key}` is set twice; remove one of the two"))
}

/// `/// docs` `pub struct Name;`, if the input begins with any part of it.
fn declaration(input: ParseStream<'_>) -> Result<Option<Declaration>> {
    let attributes = input.call(Attribute::parse_outer)?;
    let is_bare_name = input.peek(Ident) && input.peek2(Token![;]);
    let begins = input.peek(Token![pub]) || input.peek(Token![struct]) || is_bare_name;
    if let Some(other) = attributes.iter().find(|attribute| !attribute.path().is_ident("doc")) {
        let message = "only documentation may stand here; write other attributes, such as \
                       `#[cfg]`, above the macro";
        return Err(syn::Error::new_spanned(other, message));
    }
    match (attributes.first(), begins) {
        (None, false) => return Ok(None),
        (Some(doc), false) => {
            let message = "documentation belongs to the type: write `pub struct Name;` after it, \
                           or make this a `//` comment";
            return Err(syn::Error::new_spanned(doc, message));
        }
        (_, true) => {}
    }
    let visibility: Visibility = input.parse()?;
    if !input.peek(Token![struct]) {
        let name = input.fork().parse().map_or("Name".to_owned(), |name: Ident| name.to_string());
        let public = if matches!(visibility, Visibility::Inherited) { "" } else { "pub " };
        let message = format!("expected `struct`: write `{public}struct {name};`");
        return Err(at_next(input, &visibility, &message));
    }
    let keyword: Token![struct] = input.parse()?;
    if !input.peek(Ident) {
        let message = "expected the type's name: write `pub struct Name;`";
        return Err(at_next(input, &keyword, message));
    }
    let name: Ident = input.parse()?;
    if !input.peek(Token![;]) {
        let message = format!("expected `;`, the type is a unit struct: write `struct {name};`");
        return Err(at_next(input, &name, &message));
    }
    input.parse::<Token![;]>()?;
    Ok(Some(Declaration { docs: attributes, visibility, name }))
}

fn key_expected(key: &Ident) -> Result<Expected> {
    if key == "pub" || key == "struct" {
        let message = "the type is declared first, before the keys: move `pub struct Name;` up";
        return Err(syn::Error::new(key.span(), message));
    }
    let row = Key::named(&key.to_string()).map_err(|text| syn::Error::new(key.span(), text))?;
    Ok(Expected {
        takes: row.takes(),
        example: format!("`{key} = {}`", row.example),
        may_have_type: matches!(row.role, Role::Global),
    })
}

/// `key = value` or `key: type = value`, without the comma.
fn entry(
    input: ParseStream<'_>,
    example: &str,
    expected: impl Fn(&Ident) -> Result<Expected>,
) -> Result<Entry> {
    if !input.peek(Ident::peek_any) {
        return Err(input.error(format!("expected a key and its value, such as {example}")));
    }
    let key = input.call(Ident::parse_any)?;
    let expected = expected(&key)?;
    let value_type = match (input.peek(Token![:]), expected.may_have_type) {
        (false, _) => None,
        (true, true) => {
            input.parse::<Token![:]>()?;
            Some(input.parse()?)
        }
        (true, false) => {
            let message = format!("`{key}` has no type; write {}", expected.example);
            return Err(input.error(message));
        }
    };
    let wanted = format!("`{key}` takes {}; write {}", expected.takes, expected.example);
    // `==` and `=>` begin with `=` too.
    let is_other_mark = input.peek(Token![==]) || input.peek(Token![=>]);
    if is_other_mark || !input.peek(Token![=]) {
        let message = format!("expected `=` and a value: {wanted}");
        return Err(at_next(input, &key, &message));
    }
    let equals: Token![=] = input.parse()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(syn::Error::new(equals.span, format!("expected a value: {wanted}")));
    }
    let value = match value_type {
        Some(_) => Value::Expression(input.parse()?),
        None => value(input)?,
    };
    Ok(Entry { key, value_type, value })
}

/// One value, up to what cannot belong to it.
pub(crate) fn value(input: ParseStream<'_>) -> Result<Value> {
    if input.peek(LitInt) {
        let number = input.parse()?;
        // A word before `=` is the next key, after a forgotten comma.
        let has_unit = input.peek(Ident) && !input.peek2(Token![=]);
        let unit = if has_unit { Some(input.parse()?) } else { None };
        return Ok(Value::Size(number, unit));
    }
    if input.peek(LitFloat) {
        let message = "no key takes a fraction; a size is a whole number with a unit: write \
                       `1536 MiB` instead of `1.5 GiB`";
        return Err(input.error(message));
    }
    if input.peek(Lit) {
        return input.parse().map(Value::Literal);
    }
    if input.peek(Ident) && input.peek2(syn::token::Paren) {
        return Ok(Value::Call(input.parse()?, input.parse::<Group>()?));
    }
    match input.parse()? {
        Expr::Path(path) if path.qself.is_none() && path.path.get_ident().is_some() => {
            Ok(Value::Word(path.path.segments[0].ident.clone()))
        }
        other => Ok(Value::Expression(other)),
    }
}

/// The comma after a value, unless the list ends there.
fn comma(input: ParseStream<'_>, entry: &Entry) -> Result<()> {
    if input.is_empty() {
        return Ok(());
    }
    if input.peek(Token![,]) {
        return input.parse::<Token![,]>().map(drop);
    }
    let unit = match entry.value {
        Value::Size(_, None) => " or a unit, `KiB`, `MiB`, `GiB` or `TiB`,",
        _ => "",
    };
    Err(input.error(format!("expected `,`{unit} after the value of `{}`", entry.key)))
}

/// Whether `key =` or `key: type =` stands next.
fn at_entry(input: ParseStream<'_>) -> bool {
    let has_type = input.peek2(Token![:]) && !input.peek2(Token![::]);
    input.peek(Ident::peek_any) && (input.peek2(Token![=]) || has_type)
}

/// Goes on behind the next comma that a key follows, or at the end.
fn skip_entry(input: ParseStream<'_>) {
    while let Ok(token) = input.parse::<TokenTree>() {
        let is_comma = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == ',');
        if is_comma && (input.is_empty() || at_entry(input)) {
            return;
        }
    }
}

/// Goes on behind the declaration's semicolon or braces, or at what looks like the first key.
fn skip_declaration(input: ParseStream<'_>) {
    while !at_entry(input) {
        match input.parse::<TokenTree>() {
            Ok(TokenTree::Punct(mark)) if mark.as_char() == ';' => return,
            Ok(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// An error at the next token, or at the last where the input ends.
fn at_next(input: ParseStream<'_>, last: &impl ToTokens, message: &str) -> syn::Error {
    match input.fork().parse::<TokenTree>() {
        Ok(next) => syn::Error::new(next.span(), message),
        Err(_) => syn::Error::new_spanned(last, message),
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn keys(input: &Input) -> Vec<String> {
        input.entries.iter().map(|entry| entry.key.to_string()).collect()
    }

    /// The messages of all errors, in their order.
    fn messages(input: Input) -> Vec<String> {
        let errors = input.errors.into_error().into_iter().flatten();
        errors.map(|error| error.to_string()).collect()
    }

    #[test]
    fn nothing_is_an_input() {
        let input = read(quote!());
        assert!(matches!(input.declared, Declared::No) && input.entries.is_empty());
        assert!(messages(input).is_empty());
    }

    #[test]
    fn a_type_may_be_declared_alone() {
        let input = read(quote!(
            #[doc = "docs"]
            pub(crate) struct Mine;
        ));
        let Declared::Yes(declaration) = &input.declared else { panic!("not read") };
        assert_eq!((declaration.name.to_string(), declaration.docs.len()), ("Mine".to_owned(), 1));
        assert!(messages(input).is_empty());
    }

    #[test]
    fn each_shape_of_value_is_told_apart() {
        let value = |tokens| value.parse2(tokens).unwrap();
        assert!(matches!(value(quote!(slab)), Value::Word(_)));
        assert!(matches!(value(quote!(bit_set(block_bytes = 32))), Value::Call(..)));
        assert!(matches!(value(quote!(1)), Value::Size(_, None)));
        assert!(matches!(value(quote!(1 TiB)), Value::Size(_, Some(_))));
        assert!(matches!(value(quote!(1TiB)), Value::Size(_, None)));
        assert!(matches!(value(quote!(true)), Value::Literal(_)));
        assert!(matches!(value(quote!("text")), Value::Literal(_)));
        assert!(matches!(value(quote!(std::alloc::System)), Value::Expression(_)));
        assert!(matches!(value(quote!(::renamed)), Value::Expression(_)));
        assert!(matches!(value(quote!(Counter::new(1))), Value::Expression(_)));
    }

    #[test]
    fn a_comma_inside_a_type_or_value_ends_nothing() {
        let input = read(quote!(global: Both<A, B> = Both::<A, B>::new(A, B), thread = slab));
        assert_eq!(keys(&input), ["global", "thread"]);
        assert!(messages(input).is_empty());
    }

    #[test]
    fn reading_goes_on_behind_an_error() {
        let input = read(quote! {
            pub Mine;
            corutine = { a, b = c },
            thread = slab,
            default = ,
            install = false,
        });
        assert!(matches!(input.declared, Declared::Unreadable));
        assert_eq!(keys(&input), ["thread", "install"]);
        let messages = messages(input);
        assert_eq!(messages.len(), 3, "{messages:#?}");
    }

    #[test]
    fn a_forgotten_comma_hides_no_key() {
        let input = read(quote!(region_bytes = 1 thread = slab install = false));
        assert_eq!(keys(&input), ["install"]);
        let messages = messages(input);
        assert!(messages[0].starts_with("expected `,` or a unit"), "{messages:#?}");
        assert_eq!(messages[1], "expected `,` after the value of `thread`");
        assert_eq!(messages.len(), 2);
    }

    #[test]
    fn no_input_is_read_for_ever_or_unwinds() {
        let pieces = [
            quote!(thread),
            quote!(=),
            quote!(,),
            quote!(:),
            quote!(slab),
            quote!(1),
            quote!(GiB),
            quote!(pub),
            quote!(struct),
            quote!(;),
            quote!((a = 1)),
            quote!({}),
            quote!(::),
            quote!(#[doc = "a"]),
            quote!("text"),
            quote!(global),
            quote!(crate),
            quote!(bit_set),
        ];
        for first in &pieces {
            for second in &pieces {
                for third in &pieces {
                    read(quote!(#first #second #third));
                    read(quote!(thread = #first #second #third, install = true));
                }
            }
        }
    }
}
