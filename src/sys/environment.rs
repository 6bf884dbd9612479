//! The environment of the process, read without allocating.

use core::ffi::CStr;

/// Whether there is an environment yet that the process may be told something by. There is none
/// before the C library is initialised, nor ever in a set-user-ID program.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub fn is_there() -> bool {
    // SAFETY: reads a number of the process and a pointer of the C library.
    unsafe { libc::getauxval(libc::AT_SECURE) == 0 && !environ.is_null() }
}

#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
unsafe extern "C" {
    static environ: *const *const core::ffi::c_char;
}

/// The value of the variable whose name is `prefix` and then `name`.
///
/// To be called when no thread changes the environment.
pub fn variable(prefix: &str, name: &str) -> Option<&'static [u8]> {
    with_prefix(prefix).find_map(|rest| rest.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The names, without the prefix, of all variables whose names begin with it.
///
/// To be called when no thread changes the environment.
pub fn names(prefix: &str) -> impl Iterator<Item = &'static [u8]> {
    with_prefix(prefix).filter_map(|rest| rest.split(|&byte| byte == b'=').next())
}

/// What stands behind the prefix, name and value, of all variables whose names begin with it.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn with_prefix(prefix: &str) -> impl Iterator<Item = &'static [u8]> {
    // SAFETY: the environment is an array of C strings that ends with a null pointer, and stays as
    // it is meanwhile.
    let entry = |index| unsafe {
        let entry = *environ.wrapping_add(index);
        (!entry.is_null()).then(|| CStr::from_ptr::<'static>(entry).to_bytes())
    };
    let entries = (0..).take_while(|_| is_there()).map_while(entry);
    entries.filter_map(move |entry| entry.strip_prefix(prefix.as_bytes()))
}

/// Nothing is read elsewhere.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub fn is_there() -> bool {
    false
}

/// Nothing is read elsewhere.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
fn with_prefix(_: &str) -> impl Iterator<Item = &'static [u8]> {
    let _: Option<&CStr> = None;
    core::iter::empty()
}
