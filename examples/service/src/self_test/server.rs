//! The service as a process of its own, and what the kernel says of its memory.

use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a process's memory.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// So many looks in a row must find no less than the one before.
const STEADY_LOOKS: u32 = 5;

/// A service, ended when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a program that prints where it listens.
    ///
    /// # Errors
    /// It does not start, or prints something else.
    pub fn start(program: &Path, arguments: &[String]) -> io::Result<Self> {
        let mut process = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        match line.trim().rsplit('/').next().and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Self { process, address }),
            None => {
                // It may have ended by itself.
                let _ = process.kill();
                let _ = process.wait();
                Err(io::Error::other(format!("{}: printed `{line}`", program.display())))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its resident memory in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_kb(&self) -> io::Result<u64> {
        self.figure("VmRSS:")
    }

    /// Lets the most that its resident memory was be what it is now.
    ///
    /// # Errors
    /// It has ended.
    pub fn forget_peak(&self) -> io::Result<()> {
        // See proc(5).
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")
    }

    /// The most that its resident memory was, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn peak_kb(&self) -> io::Result<u64> {
        self.figure("VmHWM:")
    }

    fn figure(&self, name: &str) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("{name} is not told of the service")))
    }

    /// Its resident memory in KiB once that falls no more, or so much time has passed.
    ///
    /// # Errors
    /// It has ended.
    pub async fn settled_kb(&self, within: Duration) -> io::Result<u64> {
        let start = Instant::now();
        let (mut least, mut steady) = (self.resident_kb()?, 0);
        while steady < STEADY_LOOKS && start.elapsed() < within {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.resident_kb()?;
            steady = if now < least { 0 } else { steady + 1 };
            least = least.min(now);
        }
        self.resident_kb()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
