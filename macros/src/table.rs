//! The table of keys and the table of strategies: new ones are new rows here.
//!
//! Parsing, checking, messages and expansion all read these rows, and a test compares the macro's
//! documentation with them, so a row is the only thing to write (and its line of documentation).

use crate::nearest::{either, listed, unknown};

/// One key of the macro.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// What holds when the key is not written, as one would write it.
    pub(crate) default: &'static str,
    /// A value for messages, the one that is most often meant by whoever writes the key.
    pub(crate) example: &'static str,
}

/// What a key decides, and with it which values it takes.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// The crate that is called.
    Runtime,
    /// The strategy of coroutines' heaps.
    Coroutine,
    /// The strategy of threads' heaps.
    Thread,
    /// The allocator below both.
    Global,
    /// Where the heaps of one of them take their chunks from.
    Source(&'static SourceOf),
    /// What is current when a thread starts.
    Default(Takes),
    /// Whether it becomes the program's allocator.
    Install(Takes),
    /// A call of this method of the runtime's settings, made only if the key is written.
    Setting(&'static str, Takes),
}

/// Whose heaps a source is for.
pub(crate) struct SourceOf {
    /// The function of the runtime's configuration.
    pub(crate) function: &'static str,
    /// The constant of the runtime's hidden module.
    pub(crate) in_use: &'static str,
    /// The keys that have no say over a source that the program names.
    pub(crate) overrules: &'static [&'static str],
}

/// The values of a key, or of a strategy's setting, that are neither a type nor a strategy.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    Word(&'static [Word]),
    Flag,
    /// A power of two from the first to the last, in bytes.
    Size(u64, u64),
    /// A whole number from 0 to this.
    Number(u64),
}

/// A word that may be written, and the constant of the runtime's hidden module that it stands for.
pub(crate) struct Word {
    pub(crate) name: &'static str,
    pub(crate) stands_for: Result<&'static str, Refusal>,
}

/// Why something that has a name may not stand here, and what to write instead.
pub(crate) type Refusal = &'static str;

/// One strategy by which a heap cuts up its memory.
pub(crate) struct Strategy {
    pub(crate) name: &'static str,
    /// Its longer name.
    pub(crate) alias: Option<&'static str>,
    pub(crate) stands_for: Paths,
    /// Why threads cannot have it, and what to write instead.
    pub(crate) refused_to_threads: Option<Refusal>,
    /// In the order of the constructor's parameters.
    pub(crate) settings: &'static [NamedSetting],
}

/// One source of chunks that has a name.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    /// In the runtime's module `sources`: a type and its constructor. Without them it is the
    /// runtime's default.
    pub(crate) stands_for: Option<Paths>,
    /// In the order of the constructor's parameters, behind whose heaps it is for.
    pub(crate) settings: &'static [NamedSetting],
}

/// Where the runtime's hidden module has a strategy, or a source.
pub(crate) struct Paths {
    /// In its module `strategy`, or `sources`.
    pub(crate) type_name: &'static str,
    /// In its module `settings`, or `sources`.
    pub(crate) constructor: &'static str,
}

/// One `name = value` in parentheses.
pub(crate) struct NamedSetting {
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) default: &'static str,
}

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

/// The units of sizes.
pub(crate) const UNITS: &[(&str, u64)] = &[("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", TIB)];

const AT_THREAD_START: &[Word] = &[
    Word { name: "thread", stands_for: Ok("CurrentAllocatorInUse::ThreadLocal") },
    Word { name: "global", stands_for: Ok("CurrentAllocatorInUse::Global") },
    Word {
        name: "coroutine",
        stands_for: Err("no coroutine runs at thread start; write `thread` or `global`"),
    },
];

const HUGE_PAGES: &[Word] = &[
    Word { name: "system", stands_for: Ok("HugePages::System") },
    Word { name: "never", stands_for: Ok("HugePages::Never") },
    Word { name: "transparent", stands_for: Ok("HugePages::Transparent") },
    Word { name: "grown", stands_for: Ok("HugePages::Grown") },
];

const PLACEMENTS: &[Word] = &[
    Word { name: "home", stands_for: Ok("HeapPlacement::Home") },
    Word { name: "bind", stands_for: Ok("HeapPlacement::Bind") },
    Word { name: "interleave", stands_for: Ok("HeapPlacement::Interleave") },
    Word { name: "weighted_interleave", stands_for: Ok("HeapPlacement::WeightedInterleave") },
    Word { name: "local", stands_for: Ok("HeapPlacement::Local") },
    Word { name: "process", stands_for: Ok("HeapPlacement::Process") },
    Word {
        name: "preferred",
        stands_for: Err("the thread's node is preferred by default; write `home`"),
    },
];

const CALL_SITES: &[Word] = &[
    Word { name: "none", stands_for: Ok("call_sites::NONE") },
    Word { name: "all", stands_for: Ok("call_sites::ALL") },
    Word { name: "sampled", stands_for: Ok("call_sites::SAMPLED") },
];

const LIFETIME_HINTS: &[Word] = &[
    Word { name: "short", stands_for: Ok("LifetimeHint::Short") },
    Word { name: "medium", stands_for: Ok("LifetimeHint::Medium") },
    Word { name: "long", stands_for: Ok("LifetimeHint::Long") },
];

const FITS: &[Word] = &[
    Word { name: "first", stands_for: Ok("Fit::First") },
    Word { name: "next", stands_for: Ok("Fit::Next") },
    Word { name: "best", stands_for: Ok("Fit::Best") },
];

/// The keys, in the order in which they are documented and expanded.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "coroutine",
        role: Role::Coroutine,
        default: "context(hint = short)",
        example: "bump",
    },
    Key { name: "thread", role: Role::Thread, default: "slab", example: "slab" },
    Key {
        name: "global",
        role: Role::Global,
        default: "::std::alloc::System",
        example: "std::alloc::System",
    },
    Key {
        name: "default",
        role: Role::Default(Takes::Word(AT_THREAD_START)),
        default: "thread",
        example: "global",
    },
    Key {
        name: "coroutine_source",
        role: Role::Source(&SourceOf {
            function: "coroutine_source",
            in_use: "CurrentAllocatorInUse::CoroutineLocal",
            overrules: &["coroutine_huge_pages", "coroutine_placement"],
        }),
        default: "memory_map",
        example: "arena",
    },
    Key {
        name: "thread_source",
        role: Role::Source(&SourceOf {
            function: "thread_source",
            in_use: "CurrentAllocatorInUse::ThreadLocal",
            overrules: &["thread_huge_pages", "thread_placement"],
        }),
        default: "memory_map",
        example: "arena",
    },
    Key { name: "install", role: Role::Install(Takes::Flag), default: "true", example: "false" },
    Key {
        name: "region_bytes",
        // The runtime's bounds: two segments, and what its links can address.
        role: Role::Setting("with_region_bytes", Takes::Size(64 * MIB, TIB)),
        default: "1 TiB",
        example: "1 TiB",
    },
    Key {
        name: "coroutine_huge_pages",
        role: Role::Setting("with_coroutine_huge_pages", Takes::Word(HUGE_PAGES)),
        default: "never",
        example: "transparent",
    },
    Key {
        name: "thread_huge_pages",
        role: Role::Setting("with_thread_huge_pages", Takes::Word(HUGE_PAGES)),
        default: "grown",
        example: "transparent",
    },
    Key {
        name: "coroutine_placement",
        role: Role::Setting("with_coroutine_placement", Takes::Word(PLACEMENTS)),
        default: "home",
        example: "interleave",
    },
    Key {
        name: "thread_placement",
        role: Role::Setting("with_thread_placement", Takes::Word(PLACEMENTS)),
        default: "home",
        example: "bind",
    },
    Key {
        name: "decay_milliseconds",
        // The runtime's bound: an hour.
        role: Role::Setting("with_decay_milliseconds", Takes::Number(3_600_000)),
        default: "1000",
        example: "1000",
    },
    Key {
        name: "purge_thread",
        role: Role::Setting("with_purge_thread", Takes::Flag),
        default: "false",
        example: "true",
    },
    Key {
        name: "statistics",
        role: Role::Setting("with_statistics", Takes::Flag),
        default: "false",
        example: "true",
    },
    Key {
        name: "call_sites",
        role: Role::Setting("with_call_sites", Takes::Word(CALL_SITES)),
        default: "none",
        example: "all",
    },
    Key {
        name: "crate",
        role: Role::Runtime,
        default: "::heapswitch",
        example: "::renamed_heapswitch",
    },
];

/// The strategies, in the order in which they are documented.
pub(crate) const STRATEGIES: &[Strategy] = &[
    Strategy {
        name: "bump",
        alias: None,
        stands_for: Paths { type_name: "Bump", constructor: "bump" },
        refused_to_threads: None,
        settings: &[],
    },
    Strategy {
        name: "bit_set",
        alias: None,
        stands_for: Paths { type_name: "BitSet", constructor: "bit_set" },
        refused_to_threads: None,
        // At least 8: a freed block holds a link.
        settings: &[NamedSetting {
            name: "block_bytes",
            takes: Takes::Size(8, 4 * KIB),
            default: "32",
        }],
    },
    Strategy {
        name: "trees",
        alias: Some("multiple_binary_search_tree"),
        stands_for: Paths { type_name: "MultipleBinarySearchTree", constructor: "trees" },
        refused_to_threads: None,
        settings: &[],
    },
    Strategy {
        name: "context",
        alias: None,
        stands_for: Paths { type_name: "ContextChoice", constructor: "context" },
        refused_to_threads: None,
        settings: &[NamedSetting {
            name: "hint",
            takes: Takes::Word(LIFETIME_HINTS),
            default: "short",
        }],
    },
    Strategy {
        name: "slab",
        alias: None,
        stands_for: Paths { type_name: "Slab", constructor: "slab" },
        refused_to_threads: None,
        settings: &[],
    },
    Strategy {
        name: "free_list",
        alias: None,
        stands_for: Paths { type_name: "FreeList", constructor: "free_list" },
        refused_to_threads: None,
        settings: &[NamedSetting { name: "fit", takes: Takes::Word(FITS), default: "best" }],
    },
    Strategy {
        name: "buddy",
        alias: None,
        stands_for: Paths { type_name: "Buddy", constructor: "buddy" },
        refused_to_threads: None,
        settings: &[],
    },
    Strategy {
        name: "stripes",
        alias: None,
        stands_for: Paths { type_name: "Stripes", constructor: "stripes" },
        refused_to_threads: None,
        settings: &[],
    },
    Strategy {
        name: "memory_map",
        alias: None,
        stands_for: Paths { type_name: "MemoryMap", constructor: "memory_map" },
        refused_to_threads: Some(
            "each block takes 64 KiB or more, and most blocks of a thread are small; write `slab`",
        ),
        settings: &[],
    },
];

/// The sources, in the order in which they are documented.
pub(crate) const SOURCES: &[Source] = &[
    Source { name: "memory_map", stands_for: None, settings: &[] },
    Source {
        name: "arena",
        stands_for: Some(Paths { type_name: "Arena", constructor: "arena" }),
        // Any two of these go together: a range is at most the bound, and no bound has more blocks
        // than an arena can number.
        settings: &[
            NamedSetting {
                name: "range_bytes",
                takes: Takes::Size(64 * KIB, 16 * MIB),
                default: "1 MiB",
            },
            NamedSetting {
                name: "maximum_bytes",
                takes: Takes::Size(16 * MIB, 512 * GIB),
                default: "16 GiB",
            },
        ],
    },
];

impl Key {
    /// The key of that name, or the message that there is none.
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        let names = || KEYS.iter().map(|key| key.name);
        KEYS.iter()
            .find(|key| key.name == name)
            .ok_or_else(|| unknown("key", name, "the keys are", names()))
    }

    /// What the key takes, as a sentence's object.
    pub(crate) fn takes(&self) -> String {
        match self.role {
            Role::Runtime => "the path of a crate".to_owned(),
            Role::Coroutine | Role::Thread => {
                format!("a strategy: {}", either(self.strategies()))
            }
            Role::Global => {
                "a unit struct that implements `GlobalAlloc`, or `global: Type = expression`"
                    .to_owned()
            }
            Role::Source(_) => {
                let names = SOURCES.iter().map(|source| source.name);
                format!("{} or the path of a static `RegionSource`", listed(names))
            }
            Role::Default(takes) | Role::Install(takes) | Role::Setting(_, takes) => {
                takes.describe()
            }
        }
    }

    /// The names of the strategies that it takes.
    pub(crate) fn strategies(&self) -> impl Iterator<Item = &'static str> {
        let is_thread = matches!(self.role, Role::Thread);
        let taken = move |row: &&Strategy| !is_thread || row.refused_to_threads.is_none();
        STRATEGIES.iter().filter(taken).map(|row| row.name)
    }
}

impl Strategy {
    /// The strategy of that name or alias, if there is one.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        STRATEGIES.iter().find(|row| row.name == name || row.alias == Some(name))
    }

    /// The strategy of that name or alias, or the message that the key takes none such.
    pub(crate) fn named(name: &str, key: &Key) -> Result<&'static Self, String> {
        // The longer names are no candidates of their own: a near miss of one names the strategy.
        let message = || unknown("strategy", name, "the strategies are", key.strategies());
        Self::find(name).ok_or_else(message)
    }
}

impl Source {
    /// The source of that name, or the message that there is none.
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        let list = "write a static's path, such as `crate::ARENA`, or one of";
        let names = || SOURCES.iter().map(|row| row.name);
        SOURCES
            .iter()
            .find(|row| row.name == name)
            .ok_or_else(|| unknown("source", name, list, names()))
    }
}

/// The setting of that name among those of `owner`, or the message that there is none.
pub(crate) fn setting_named(
    owner: &str,
    settings: &'static [NamedSetting],
    name: &str,
) -> Result<&'static NamedSetting, String> {
    if settings.is_empty() {
        return Err(format!("`{owner}` has no settings; write `{owner}`"));
    }
    settings.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let names = settings.iter().map(|setting| setting.name);
        unknown("setting", name, &format!("`{owner}` has"), names)
    })
}

impl Takes {
    /// What is taken, as a sentence's object.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Word(words) => either(accepted(words)),
            Self::Flag => "`true` or `false`".to_owned(),
            Self::Number(most) => format!("a whole number from 0 to {most}"),
            Self::Size(least, most) => {
                format!("a power of two from {} to {}", bytes(least), bytes(most))
            }
        }
    }
}

/// The words that are not refused.
pub(crate) fn accepted(words: &'static [Word]) -> impl Iterator<Item = &'static str> {
    words.iter().filter(|word| word.stands_for.is_ok()).map(|word| word.name)
}

/// A size as one would write it, in the largest unit that divides it.
pub(crate) fn bytes(size: u64) -> String {
    match UNITS.iter().rfind(|(_, factor)| size >= *factor && size.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{} {unit}", size / factor),
        None => size.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of a Markdown table's rows, without the head.
    fn cells(table: &str) -> Vec<Vec<&str>> {
        table
            .lines()
            .skip(2)
            .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
            .collect()
    }

    #[test]
    fn every_key_is_documented() {
        let documented = cells(include_str!("keys.md"));
        assert_eq!(documented.len(), KEYS.len());
        for (row, key) in documented.iter().zip(KEYS) {
            let values = match key.role {
                Role::Coroutine | Role::Thread => "a strategy".to_owned(),
                _ => key.takes(),
            };
            let [name, default] = [key.name, key.default].map(|text| format!("`{text}`"));
            assert_eq!(row[..3], [name, values, default], "the row of keys.md, not of the code");
            assert!(row[3].ends_with('.'), "{row:?}");
        }
    }

    #[test]
    fn every_strategy_is_documented() {
        let documented = cells(include_str!("strategies.md"));
        assert_eq!(documented.len(), STRATEGIES.len());
        for (row, strategy) in documented.iter().zip(STRATEGIES) {
            let names = either([strategy.name].into_iter().chain(strategy.alias));
            let settings = described(strategy.settings);
            assert_eq!(row[..2], [names, settings], "the row of strategies.md, not of the code");
            assert!(row[2].ends_with('.'), "{row:?}");
        }
    }

    #[test]
    fn every_source_is_documented() {
        let documented = cells(include_str!("sources.md"));
        // The last row is of the program's own.
        assert_eq!(documented.len(), SOURCES.len() + 1);
        for (row, source) in documented.iter().zip(SOURCES) {
            let cells = [format!("`{}`", source.name), described(source.settings)];
            assert_eq!(row[..2], cells, "the row of sources.md, not of the code");
            assert!(row[2].ends_with('.'), "{row:?}");
        }
    }

    /// What stands in a table of settings.
    fn described(settings: &[NamedSetting]) -> String {
        let settings = settings.iter().map(|setting| {
            let takes = setting.takes.describe();
            format!("`{}`: {takes}, by default `{}`", setting.name, setting.default)
        });
        let settings = settings.collect::<Vec<_>>().join("; ");
        if settings.is_empty() { "none".to_owned() } else { settings }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        let aliases = STRATEGIES.iter().filter_map(|strategy| strategy.alias);
        let mut names: Vec<_> = STRATEGIES.iter().map(|row| row.name).chain(aliases).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn sizes_are_written_in_their_largest_unit() {
        assert_eq!(bytes(32), "32");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(4097), "4097");
        assert_eq!(bytes(1536 * MIB), "1536 MiB");
        assert_eq!(bytes(2 * TIB), "2 TiB");
    }
}
