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
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub fn variable(prefix: &str, name: &str) -> Option<&'static [u8]> {
    if !is_there() {
        return None;
    }
    // SAFETY: the environment is an array of C strings that ends with a null pointer, and stays as
    // it is meanwhile.
    let entries = (0..).map_while(|index| unsafe {
        let entry = *environ.wrapping_add(index);
        (!entry.is_null()).then(|| CStr::from_ptr::<'static>(entry).to_bytes())
    });
    let value = |entry: &'static [u8]| {
        let rest = entry.strip_prefix(prefix.as_bytes())?.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    };
    { entries }.find_map(value)
}

/// Nothing is read elsewhere.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub fn is_there() -> bool {
    false
}

/// Nothing is read elsewhere.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub fn variable(_: &str, _: &str) -> Option<&'static [u8]> {
    let _: Option<&CStr> = None;
    None
}
