//! Paths through functions, as the processor takes them: a process is traced step by step, and the
//! addresses are looked up in what objdump (binutils) says of the program or library.
//!
//! The traced process is this program once more, told so by the environment: a function that the
//! loader calls before anything else marks which function it is about to call for which path.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// As each C library declares it.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

/// The compiler that what is written down is of.
const COMPILER: &str = "rustc 1.95.0";

/// No path takes more.
const MOST_STEPS: usize = 1000;

/// Marks where a path begins that is to be read: which, and the function that is called next.
pub(crate) fn mark(path: usize, function: *const ()) {
    // SAFETY: a traced process stops here and goes on as if nothing had been.
    unsafe { core::arch::asm!("int3", in("rdi") path, in("rsi") function.addr()) };
}

/// Whether this is the process that is traced, asked before the standard library is set up.
pub(crate) fn is_traced() -> bool {
    // SAFETY: the name is a C string, and nobody changes the environment yet.
    !unsafe { libc::getenv(c"HEAPSWITCH_TEST_TRACED".as_ptr()) }.is_null()
}

/// Where a path led.
pub(crate) struct Steps {
    /// Which path it is, as it was marked.
    pub(crate) path: usize,
    function: u64,
    addresses: Vec<u64>,
}

/// What a traced process waits for.
struct Tracee(i32);

impl Tracee {
    /// Starts this program once more.
    fn start(environment: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("HEAPSWITCH_TEST_TRACED", "1").envs(environment.iter().copied());
        // SAFETY: `ptrace` may be called between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let tracee =
            Self(command.spawn().expect("the system lets processes be traced").id() as i32);
        assert!(libc::WIFSTOPPED(tracee.wait()), "it is not traced");
        tracee
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: the child is ours.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        status
    }

    /// Goes on to where it stops next.
    fn go_on(&self, request: Request) -> i32 {
        // SAFETY: the child is stopped, and this thread its tracer.
        assert_eq!(unsafe { libc::ptrace(request, self.0, 0, 0) }, 0);
        self.wait()
    }

    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: the child is stopped, this thread its tracer; zeros are valid registers.
        unsafe {
            let result = libc::ptrace(libc::PTRACE_GETREGS, self.0, 0, registers.as_mut_ptr());
            assert_eq!(result, 0);
            registers.assume_init()
        }
    }

    /// The steps from the call of a function until it has returned.
    fn steps(&self) -> Steps {
        let marked = self.registers();
        let mut steps =
            Steps { path: marked.rdi as usize, function: marked.rsi, addresses: Vec::new() };
        let mut stack = None;
        while steps.addresses.len() < MOST_STEPS {
            assert!(libc::WIFSTOPPED(self.go_on(libc::PTRACE_SINGLESTEP)), "path {}", steps.path);
            let now = self.registers();
            let entered = stack.or((now.rip == steps.function).then_some(now.rsp));
            match entered {
                Some(top) if now.rsp > top => return steps,
                Some(_) => steps.addresses.push(now.rip),
                None => {}
            }
            stack = entered;
        }
        panic!("path {} does not return", steps.path)
    }
}

/// All paths that this program marks, once more and traced, with more in its environment.
pub(crate) fn paths(environment: &[(&str, &Path)]) -> Vec<Steps> {
    let tracee = Tracee::start(environment);
    let mut paths = Vec::new();
    loop {
        let status = tracee.go_on(libc::PTRACE_CONT);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0);
            return paths;
        }
        assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP, "{status:#x}");
        paths.push(tracee.steps());
    }
}

/// The instructions of a program or library.
pub(crate) struct Code {
    mnemonics: HashMap<u64, String>,
    functions: HashMap<String, u64>,
}

impl Code {
    pub(crate) fn of(file: &Path) -> Self {
        let output = Command::new("objdump")
            .args(["--disassemble", "--no-show-raw-insn"])
            .arg(file)
            .output()
            .expect("objdump starts: it is in the package binutils");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut code = Self { mnemonics: HashMap::new(), functions: HashMap::new() };
        let number = |digits: &str| u64::from_str_radix(digits.trim(), 16).ok();
        for line in text.lines() {
            if let Some((address, instruction)) = line.split_once(":\t") {
                let mnemonic = instruction.split_whitespace().next().unwrap_or_default();
                code.mnemonics.insert(number(address).unwrap(), mnemonic.to_owned());
            } else if let Some((address, name)) = line.split_once(" <")
                && let Some(address) = number(address)
            {
                code.functions.insert(name.trim_end_matches(">:").to_owned(), address);
            }
        }
        code
    }

    /// The mnemonics of a path through a function of this code.
    pub(crate) fn read(&self, function: &str, steps: &Steps) -> Vec<String> {
        let at = self.functions.get(function).unwrap_or_else(|| panic!("{function} is not there"));
        let moved = steps.function.wrapping_sub(*at);
        let mnemonic = |&address: &u64| self.mnemonics.get(&address.wrapping_sub(moved)).cloned();
        let read: Option<Vec<String>> = steps.addresses.iter().map(mnemonic).collect();
        read.unwrap_or_else(|| panic!("{function} leads out of its program"))
    }
}

fn is_the_compiler() -> bool {
    let output = Command::new("rustc").arg("--version").output().expect("rustc starts");
    String::from_utf8_lossy(&output.stdout).starts_with(COMPILER)
}

/// Compares a path with what is written down of it. With the compiler that that is of each
/// instruction must be the same; with another the path may be longer by a tenth.
/// `HEAPSWITCH_WRITE_HOT_PATHS=1` writes it anew.
pub(crate) fn hold(folder: &str, name: &str, found: &[String]) {
    let file = Path::new(folder).join(name).with_extension("txt");
    if std::env::var_os("HEAPSWITCH_WRITE_HOT_PATHS").is_some() {
        std::fs::write(&file, found.join("\n") + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let written: Vec<&str> = text.lines().collect();
    println!("{name}: {} instructions", found.len());
    if is_the_compiler() {
        assert_eq!(found, written, "{name}");
    } else {
        assert!(10 * found.len() <= 11 * written.len(), "{name}: {found:?}");
    }
}
