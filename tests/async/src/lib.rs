//! Nothing: the tests beside it run contexts on tokio, smol and rayon, which the library itself
//! does not know. They are a package of their own, so that the library's tests do without those.
#![forbid(unsafe_code)]
