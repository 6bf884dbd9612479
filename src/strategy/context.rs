//! `LifetimeHint` and `ContextAllocator`: one of three strategies, chosen at run time.
#![forbid(unsafe_code)]

/// How long what a context allocates lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LifetimeHint {
    /// Until the context ends: a request. Bump.
    #[default]
    Short,
    /// Blocks of similar size come and go: a connection. Bit set.
    Medium,
    /// Blocks of all sizes come and go for long: a session, a cache. Trees.
    Long,
}
