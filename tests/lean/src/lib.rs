//! Nothing: the tests beside it are those that a compiler, a flag or a folder of their own builds
//! anew. They are a package of their own, so that this does not build what the others need.
#![forbid(unsafe_code)]
