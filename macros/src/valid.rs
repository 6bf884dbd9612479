//! Checks each value against its key's row, and fills in the defaults.

use proc_macro2::{Group, Span};
use quote::ToTokens;
use syn::parse::Parser;
use syn::{Expr, Ident, Lit, LitInt, Result};

use crate::args::{self, Declared, Errors, Expected, Input};
use crate::ast::{
    ChosenSource, ChosenStrategy, Configuration, Declaration, Entry, GlobalAllocator, Scalar,
    Setting, Source, Value,
};
use crate::nearest;
use crate::table::{self, KEYS, Key, NamedSetting, Role, Strategy, Takes, UNITS, Word};

/// The type's name if none is declared.
pub(crate) const DEFAULT_NAME: &str = "GlobalThreadAndCoroutineSwitchableAllocator";

/// Wrong input: what is wrong, and what can still be generated.
pub(crate) struct Invalid {
    pub(crate) error: syn::Error,
    /// None if the name could not be read.
    pub(crate) declaration: Option<Declaration>,
}

/// What the keys gave so far.
#[derive(Default)]
struct Values {
    runtime: Option<syn::Path>,
    coroutine: Option<ChosenStrategy>,
    thread: Option<ChosenStrategy>,
    global: Option<GlobalAllocator>,
    sources: Vec<Source>,
    default: Option<Scalar>,
    install: Option<Scalar>,
    settings: Vec<Setting>,
}

/// The configuration that the input describes.
pub(crate) fn check(input: Input) -> std::result::Result<Configuration, Invalid> {
    let Input { declared, entries, mut errors } = input;
    let mut values = Values::default();
    for key in KEYS {
        let written = entries.iter().find(|entry| entry.key == key.name);
        values.read(key, written, &mut errors);
    }
    values.refuse_overruled(&entries, &mut errors);
    let declaration = match declared {
        Declared::Yes(declaration) => Some(declaration),
        Declared::No => Some(default_declaration()),
        Declared::Unreadable => None,
    };
    if let Some(error) = errors.into_error() {
        return Err(Invalid { error, declaration });
    }
    // Both fail only with an error, which was returned; the tests read every row's default.
    let complete = declaration.and_then(|declaration| values.complete(declaration));
    complete.ok_or_else(|| Invalid {
        error: syn::Error::new(Span::call_site(), "a row of the macro's table is missing"),
        declaration: None,
    })
}

impl Values {
    /// Reads the value of one key, or its default.
    fn read(&mut self, key: &'static Key, written: Option<&Entry>, errors: &mut Errors) {
        // The runtime knows the defaults of its own settings.
        if written.is_none() && matches!(key.role, Role::Setting(..) | Role::Source(_)) {
            return;
        }
        let default;
        let value = match written {
            Some(entry) => &entry.value,
            None => match errors.keep(args::value.parse_str(key.default)) {
                Some(value) => {
                    default = value;
                    &default
                }
                None => return,
            },
        };
        let scalar = |takes| scalar(takes, value, key.name, key.example);
        match key.role {
            Role::Runtime => self.runtime = errors.keep(runtime(value)),
            Role::Coroutine => self.coroutine = errors.keep(strategy(value, key)),
            Role::Thread => self.thread = errors.keep(strategy(value, key)),
            Role::Global => {
                let value_type = written.and_then(|entry| entry.value_type.as_ref());
                self.global = errors.keep(global(value, value_type, key));
            }
            Role::Source(of) => {
                let chosen = errors.keep(source(value, key)).flatten();
                self.sources.extend(chosen.map(|chosen| Source { of, chosen }));
            }
            Role::Default(takes) => self.default = errors.keep(scalar(takes)),
            Role::Install(takes) => self.install = errors.keep(scalar(takes)),
            Role::Setting(method, takes) => {
                let value = errors.keep(scalar(takes));
                self.settings.extend(value.map(|value| Setting { method, value }));
            }
        }
    }

    /// Refuses settings that would have no effect.
    fn refuse_overruled(&self, entries: &[Entry], errors: &mut Errors) {
        for Source { of, chosen } in &self.sources {
            let ChosenSource::Static(path) = chosen else { continue };
            let is_overruled = |entry: &&Entry| of.overrules.iter().any(|key| entry.key == key);
            for Entry { key, .. } in entries.iter().filter(is_overruled) {
                let path = path.to_token_stream().to_string().replace(" :: ", "::");
                let message = format!(
                    "`{key}` has no say over `{path}`, which is made with its own; remove one of \
                     the two"
                );
                errors.push(syn::Error::new(key.span(), message));
            }
        }
    }

    fn complete(self, declaration: Declaration) -> Option<Configuration> {
        Some(Configuration {
            declaration,
            runtime: self.runtime?,
            coroutine: self.coroutine?,
            thread: self.thread?,
            global: self.global?,
            sources: self.sources,
            default: self.default?,
            install: self.install?,
            settings: self.settings,
        })
    }
}

fn default_declaration() -> Declaration {
    Declaration {
        docs: Vec::new(),
        // Not `pub`: the compiler refuses a private type as the global allocator of a public one.
        visibility: syn::parse_quote!(pub(crate)),
        name: Ident::new(DEFAULT_NAME, Span::call_site()),
    }
}

/// An error that underlines all of `at`.
fn error<T>(at: &impl ToTokens, message: impl core::fmt::Display) -> Result<T> {
    Err(syn::Error::new_spanned(at, message))
}

fn runtime(value: &Value) -> Result<syn::Path> {
    match value.as_path() {
        Some(path) => Ok(path),
        None => error(value, "`crate` takes the path of a crate, such as `::renamed_heapswitch`"),
    }
}

/// The global allocator: a type with a value, or a path that is both.
fn global(value: &Value, value_type: Option<&syn::Type>, key: &Key) -> Result<GlobalAllocator> {
    if let (Some(value_type), Value::Expression(expression)) = (value_type, value) {
        let value = expression.to_token_stream();
        return Ok(GlobalAllocator { value_type: value_type.to_token_stream(), value });
    }
    if let Value::Word(word) | Value::Call(word, _) = value
        && let Some(strategy) = Strategy::find(&word.to_string())
    {
        let name = strategy.name;
        return error(
            word,
            format!(
                "`{name}` is a strategy, and `global` takes a type that implements `GlobalAlloc`; \
                 write `global = {}`, or an adaptor: `global: Type = expression`",
                key.example
            ),
        );
    }
    if let Some(path) = value.as_path() {
        let tokens = path.to_token_stream();
        return Ok(GlobalAllocator { value_type: tokens.clone(), value: tokens });
    }
    match value {
        Value::Expression(
            Expr::Call(_) | Expr::Struct(_) | Expr::MethodCall(_) | Expr::Macro(_),
        )
        | Value::Call(..) => error(
            value,
            format!(
                "the type of an expression is not inferred; write `global: Type = {}`",
                spelled(value)
            ),
        ),
        _ => error(value, format!("`global` takes {}", key.takes())),
    }
}

/// Tokens as text, without the blanks that printing puts around `::` and parentheses.
fn spelled(value: &Value) -> String {
    value.to_token_stream().to_string().replace(" :: ", "::").replace(" (", "(")
}

/// A local strategy and its settings.
fn strategy(value: &Value, key: &Key) -> Result<ChosenStrategy> {
    let (word, arguments) = match value {
        Value::Word(word) => (word, None),
        Value::Call(word, arguments) => (word, Some(arguments)),
        other => {
            let Key { name, example, .. } = key;
            let message = format!("`{name}` takes {}; write `{name} = {example}`", key.takes());
            return error(other, message);
        }
    };
    let strategy = match Strategy::named(&word.to_string(), key) {
        Ok(strategy) => strategy,
        Err(message) => return error(word, message),
    };
    if let (Role::Thread, Some(reason)) = (key.role, strategy.refused_to_threads) {
        return error(word, format!("`{word}` cannot be local to a thread: {reason}"));
    }
    let settings = settings(strategy.name, strategy.settings, arguments)?;
    Ok(ChosenStrategy { paths: &strategy.stands_for, settings })
}

/// A source of chunks; none for the runtime's default.
fn source(value: &Value, key: &Key) -> Result<Option<ChosenSource>> {
    let (word, arguments) = match value {
        // Statics have names in capitals, and sources do not.
        Value::Word(word) if !word.to_string().starts_with(char::is_uppercase) => (word, None),
        Value::Call(word, arguments) => (word, Some(arguments)),
        other => match other.as_path() {
            Some(path) => return Ok(Some(ChosenSource::Static(path))),
            None => {
                let Key { name, example, .. } = key;
                let takes = key.takes();
                return error(other, format!("`{name}` takes {takes}; write `{name} = {example}`"));
            }
        },
    };
    let source = match table::Source::named(&word.to_string()) {
        Ok(source) => source,
        Err(message) => return error(word, message),
    };
    let settings = settings(source.name, source.settings, arguments)?;
    Ok(source.stands_for.as_ref().map(|paths| ChosenSource::Made { paths, settings }))
}

/// What stands in the parentheses behind `name`, and the defaults of the rest.
fn settings(
    name: &str,
    rows: &'static [NamedSetting],
    arguments: Option<&Group>,
) -> Result<Vec<Scalar>> {
    let mut errors = Errors::default();
    let entries = arguments.map_or_else(Vec::new, |arguments| {
        let example = match rows.first() {
            Some(row) => format!("`{name}({} = {})`", row.name, row.default),
            None => format!("`{name}` without parentheses"),
        };
        let read = |input: syn::parse::ParseStream<'_>| {
            let expected = |key: &Ident| setting_expected(name, rows, key);
            Ok(args::list(input, &example, expected, &mut errors))
        };
        read.parse2(arguments.stream()).unwrap_or_default()
    });
    let settings = rows.iter().filter_map(|row| {
        errors.keep(setting(row, entries.iter().find(|entry| entry.key == row.name)))
    });
    let settings = settings.collect();
    match errors.into_error() {
        Some(error) => Err(error),
        None => Ok(settings),
    }
}

fn setting_expected(name: &str, rows: &'static [NamedSetting], key: &Ident) -> Result<Expected> {
    match table::setting_named(name, rows, &key.to_string()) {
        Ok(row) => Ok(Expected {
            takes: row.takes.describe(),
            example: format!("`{} = {}`", row.name, row.default),
            may_have_type: false,
        }),
        Err(message) => error(key, message),
    }
}

fn setting(row: &NamedSetting, written: Option<&Entry>) -> Result<Scalar> {
    let default;
    let value = match written {
        Some(entry) => &entry.value,
        None => {
            default = args::value.parse_str(row.default)?;
            &default
        }
    };
    scalar(row.takes, value, row.name, row.default)
}

/// A word, flag, number or size, as the row takes it.
fn scalar(takes: Takes, value: &Value, name: &str, example: &str) -> Result<Scalar> {
    let wrong_kind = || {
        let takes = takes.describe();
        error(value, format!("`{name}` takes {takes}; write `{name} = {example}`"))
    };
    match (takes, value) {
        (Takes::Word(words), Value::Word(word)) => one_of(words, word, name).map(Scalar::Constant),
        (Takes::Flag, Value::Literal(Lit::Bool(flag))) => Ok(Scalar::Flag(flag.value)),
        (Takes::Number(most), Value::Size(number, None)) if number.suffix().is_empty() => {
            match number.base10_parse() {
                Ok(count) if count <= most => Ok(Scalar::Number(count)),
                _ => wrong_kind(),
            }
        }
        (Takes::Size(least, most), Value::Size(number, unit)) if !is_negative(number) => {
            let size = size(number, unit.as_ref())?;
            match advice(size, least, most) {
                None => Ok(Scalar::Bytes(size)),
                Some(advice) => {
                    let (size, takes) = (table::bytes(size), takes.describe());
                    error(value, format!("`{name}` takes {takes}, not {size}; write {advice}"))
                }
            }
        }
        _ => wrong_kind(),
    }
}

fn one_of(words: &'static [Word], word: &Ident, name: &str) -> Result<&'static str> {
    let Some(row) = words.iter().find(|row| *word == row.name) else {
        let list = format!("`{name}` takes");
        let message = nearest::unknown("value", &word.to_string(), &list, table::accepted(words));
        return error(word, message);
    };
    match row.stands_for {
        Ok(path) => Ok(path),
        Err(reason) => error(word, reason),
    }
}

fn is_negative(number: &LitInt) -> bool {
    number.base10_digits().starts_with('-')
}

/// A number with its unit, in bytes. The unit stands behind the number (`1 TiB`) or at it (`1TiB`).
fn size(number: &LitInt, unit: Option<&Ident>) -> Result<u64> {
    let (unit, at) = match (unit, number.suffix()) {
        (None, suffix) => (suffix.to_owned(), number.span()),
        (Some(unit), "") => (unit.to_string(), unit.span()),
        (Some(unit), suffix) => {
            return error(unit, format!("two units, `{suffix}` and `{unit}`; remove one"));
        }
    };
    let factor = match UNITS.iter().find(|(name, _)| *name == unit) {
        _ if unit.is_empty() => 1,
        Some((_, factor)) => *factor,
        None => {
            let names = UNITS.iter().map(|(name, _)| *name);
            let message = nearest::unknown("unit", &unit, "the units are", names);
            return Err(syn::Error::new(at, message));
        }
    };
    let bytes =
        number.base10_digits().parse().ok().and_then(|count: u64| count.checked_mul(factor));
    bytes.ok_or_else(|| syn::Error::new(number.span(), "this size passes 64 bits"))
}

/// The nearest sizes to write instead of one that is no power of two from `least` to `most`.
fn advice(size: u64, least: u64, most: u64) -> Option<String> {
    let bytes = |size| format!("`{}`", table::bytes(size));
    match size {
        _ if size < least => Some(bytes(least)),
        _ if size > most => Some(bytes(most)),
        _ if size.is_power_of_two() => None,
        // Between two powers of two, of which both are within the limits.
        _ => Some(format!("{} or {}", bytes(1 << size.ilog2()), bytes(2 << size.ilog2()))),
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;
    use quote::quote;

    use super::*;

    fn message(input: TokenStream) -> String {
        check(args::read(input)).err().expect("an error").error.to_string()
    }

    fn region_bytes(size: TokenStream) -> Option<u64> {
        let configuration = check(args::read(quote!(region_bytes = #size))).ok()?;
        match configuration.settings[..] {
            [Setting { method: "with_region_bytes", value: Scalar::Bytes(bytes) }] => Some(bytes),
            _ => None,
        }
    }

    #[test]
    fn every_default_and_example_may_be_written() {
        for key in KEYS {
            for value in [key.default, key.example] {
                let input = format!("{} = {value}", key.name).parse().unwrap();
                let checked = check(args::read(input));
                assert!(checked.is_ok(), "{} = {value}", key.name);
            }
        }
    }

    #[test]
    fn every_strategy_is_local_or_refused_with_a_reason() {
        for strategy in table::STRATEGIES {
            for name in [strategy.name].into_iter().chain(strategy.alias) {
                let word = Ident::new(name, Span::call_site());
                assert!(check(args::read(quote!(coroutine = #word))).is_ok(), "{name}");
                match (check(args::read(quote!(thread = #word))), strategy.refused_to_threads) {
                    (Ok(_), None) => {}
                    (Err(invalid), Some(reason)) => {
                        assert!(invalid.error.to_string().contains(reason));
                    }
                    _ => panic!("{name}"),
                }
            }
        }
    }

    #[test]
    fn any_two_settings_of_an_arena_go_together() {
        let sizes = |value: &str| {
            let input = format!("thread_source = {value}").parse().unwrap();
            match check(args::read(input)).ok().unwrap().sources.pop() {
                Some(Source { chosen: ChosenSource::Made { settings, .. }, .. }) => settings,
                _ => panic!("no arena"),
            }
        };
        let [Scalar::Bytes(range), Scalar::Bytes(most)] = sizes("arena")[..] else { panic!() };
        assert_eq!((range, most), (1 << 20, 16 << 30));
        let [Takes::Size(_, longest), Takes::Size(least, most)] =
            [0, 1].map(|setting| table::SOURCES[1].settings[setting].takes)
        else {
            panic!()
        };
        // As `ArenaSettings` has it: blocks of 64 KiB, numbered twice over, in 25 bits.
        assert!(longest <= least && 2 * (most >> 16) < (1 << 25) - 1);
    }

    #[test]
    fn the_default_source_is_not_generated() {
        let sources = |input| check(args::read(input)).ok().unwrap().sources.len();
        assert_eq!(sources(quote!(coroutine_source = memory_map)), 0);
        assert_eq!(sources(quote!(coroutine_source = memory_map(), thread_source = arena)), 1);
        assert_eq!(sources(quote!(coroutine_source = MINE, thread_source = self::mine)), 2);
    }

    #[test]
    fn sizes_have_units() {
        let gib = Some(1 << 30);
        assert_eq!(region_bytes(quote!(1 GiB)), gib);
        assert_eq!(region_bytes(quote!(1GiB)), gib);
        assert_eq!(region_bytes(quote!(1_024 MiB)), gib);
        assert_eq!(region_bytes(quote!(0x10_0000 KiB)), gib);
        assert_eq!(region_bytes(quote!(1073741824)), gib);
        assert_eq!(region_bytes(quote!(64 MiB)), Some(64 << 20));
        assert_eq!(region_bytes(quote!(1 TiB)), Some(1 << 40));
        for refused in [quote!(32 MiB), quote!(2 TiB), quote!(3 GiB), quote!(0), quote!(1 gib)] {
            assert_eq!(region_bytes(refused), None);
        }
    }

    #[test]
    fn numbers_have_no_units_and_a_bound() {
        let is_taken =
            |number: TokenStream| check(args::read(quote!(decay_milliseconds = #number))).is_ok();
        assert!(is_taken(quote!(0)) && is_taken(quote!(3_600_000)));
        for refused in [quote!(3_600_001), quote!(-1), quote!(1 KiB), quote!(1u64), quote!(1.5)] {
            assert!(!is_taken(refused));
        }
    }

    #[test]
    fn advice_is_accepted() {
        assert_eq!(advice(48, 8, 4096).unwrap(), "`32` or `64`");
        assert_eq!(advice(9, 8, 4096).unwrap(), "`8` or `16`");
        assert_eq!(advice(4095, 8, 4096).unwrap(), "`2 KiB` or `4 KiB`");
        assert_eq!(advice(u64::MAX, 8, 4096).unwrap(), "`4 KiB`");
        assert_eq!(advice(64, 8, 4096), None);
    }

    #[test]
    fn the_default_type_has_the_default_name_unless_one_is_declared() {
        let name = |input| check(args::read(input)).ok().unwrap().declaration.name.to_string();
        assert_eq!(name(quote!()), DEFAULT_NAME);
        assert_eq!(name(quote! { struct Mine; }), "Mine");
    }

    #[test]
    fn a_wrong_value_leaves_the_type_known() {
        let invalid = check(args::read(quote! { struct Mine; thread = slob })).err().unwrap();
        assert_eq!(invalid.declaration.unwrap().name, "Mine");
        let invalid = check(args::read(quote!(pub Mine;))).err().unwrap();
        assert!(invalid.declaration.is_none());
    }

    #[test]
    fn an_expression_is_spelt_as_it_was_written() {
        let message = message(quote!(global = a::B::new(1)));
        assert!(message.ends_with("write `global: Type = a::B::new(1)`"), "{message}");
    }
}
