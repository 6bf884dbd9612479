//! `heapswitch-run [--all] [--] PROGRAM [ARGUMENT]...`: runs a program on heapswitch, whatever it
//! was built with, and tells at its end what it needed.
//!
//! The library has to lie beside this program. The exit status is the program's, or 128 and the
//! number of the signal that killed it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

const LIBRARY: &str = "libheapswitch_preload.so";

const USAGE: &str = "\
usage: heapswitch-run [--all] [--] PROGRAM [ARGUMENT]...

Runs PROGRAM with heapswitch as its malloc, and writes to the standard error at its end: peak,
threads, foreign frees, slow paths, size classes.

  --all   tell the same of every program that PROGRAM starts
";

/// What was asked for.
struct Options {
    is_all: bool,
    program: OsString,
    arguments: Vec<OsString>,
}

/// `Err` is what to print, and whether it is a mistake.
fn options(arguments: impl Iterator<Item = OsString>) -> Result<Options, (String, bool)> {
    let mut arguments = arguments.peekable();
    let mut is_all = false;
    while let Some(option) =
        arguments.next_if(|argument| argument.as_encoded_bytes()[..].starts_with(b"-"))
    {
        match option.to_str() {
            Some("--all") => is_all = true,
            Some("--") => break,
            Some("--help" | "-h") => return Err((USAGE.to_owned(), false)),
            _ => {
                let text = format!("unknown option {}\n\n{USAGE}", option.display());
                return Err((text, true));
            }
        }
    }
    let Some(program) = arguments.next() else {
        return Err((format!("no program was named\n\n{USAGE}"), true));
    };
    Ok(Options { is_all, program, arguments: arguments.collect() })
}

/// The library beside this program.
fn library() -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let path = own.parent().unwrap_or(Path::new("/")).join(LIBRARY);
    if !path.is_file() {
        return Err(format!(
            "{} is missing; it has to lie beside this program (build both: cargo build --release \
             -p heapswitch-preload)",
            path.display()
        ));
    }
    // The dynamic linker splits the variable at these and knows no quotes.
    if path.as_os_str().as_encoded_bytes().iter().any(|byte| b" :".contains(byte)) {
        return Err(format!("{}: LD_PRELOAD takes no path with a space or colon", path.display()));
    }
    Ok(path)
}

/// A file in which the programs leave their reports; removed when dropped.
struct Reports(PathBuf);

impl Reports {
    fn new() -> Result<Self, String> {
        for number in 0..100 {
            let name = format!("heapswitch-run-{}-{number}", std::process::id());
            let path = env::temp_dir().join(name);
            // Made anew: in a folder that all may write to, a file of that name may be a trap.
            match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        Err(format!("no new file can be made in {}", env::temp_dir().display()))
    }

    /// What was reported: of one process, or of all.
    fn read(&self, process: Option<u32>) -> String {
        let text = fs::read(&self.0).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut is_wanted = false;
        let lines = text.split_inclusive('\n').filter(|line| {
            if let Some(rest) = line.strip_prefix("heapswitch: process ") {
                let number = rest.split(' ').next().and_then(|number| number.parse::<u32>().ok());
                is_wanted = process.is_none() || number == process;
            }
            is_wanted
        });
        lines.collect()
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

/// `LD_PRELOAD` with the library in front of what was there.
fn preloaded(library: &Path) -> OsString {
    let mut value = library.as_os_str().to_owned();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    value
}

/// While the program runs, an interrupt from the terminal is its own business.
#[cfg(target_os = "linux")]
fn leave_interrupts_to_the_program() {
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
    }
}

#[cfg(not(target_os = "linux"))]
fn leave_interrupts_to_the_program() {}

fn run(options: &Options) -> Result<ExitStatus, String> {
    let (library, reports) = (library()?, Reports::new()?);
    let mut child = Command::new(&options.program)
        .args(&options.arguments)
        .env("LD_PRELOAD", preloaded(&library))
        .env("HEAPSWITCH_REPORT", &reports.0)
        .spawn()
        .map_err(|error| format!("{}: {error}", options.program.display()))?;
    leave_interrupts_to_the_program();
    let status = child.wait().map_err(|error| format!("cannot wait: {error}"))?;
    let report = reports.read((!options.is_all).then(|| child.id()));
    eprint!("{report}");
    if report.is_empty() {
        eprintln!("heapswitch-run: {}", silence(&options.program, status));
    }
    Ok(status)
}

/// Why there may be no report.
fn silence(program: &OsStr, status: ExitStatus) -> String {
    let program = program.display();
    match status.signal() {
        Some(signal) => format!("{program} was killed by signal {signal} and left no report"),
        None => format!(
            "{program} left no report: it ended by _exit, or is linked statically, or set-user-ID"
        ),
    }
}

fn main() -> ExitCode {
    let options = match options(env::args_os().skip(1)) {
        Ok(options) => options,
        Err((text, is_mistake)) if is_mistake => {
            eprint!("heapswitch-run: {text}");
            return ExitCode::from(2);
        }
        Err((text, _)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
    };
    match run(&options) {
        Ok(status) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Err(error) => {
            eprintln!("heapswitch-run: {error}");
            ExitCode::from(125)
        }
    }
}
