//! The command line.

/// What is printed for `--help` and after a mistake.
pub(crate) const USAGE: &str = "\
usage: service [--port N] [--workers N] [--budget BYTES] [--at-once N]
       service --self-test [--requests N] [--rounds N] [--alone]

  --port N        listen on this port of the loopback; 0 chooses one (8080)
  --workers N     threads that serve (2)
  --budget BYTES  what each request may hold (2097152)
  --at-once N     requests that are worked on at once; more wait (32)
  --self-test     start the service, and the same on mimalloc without limits, drive both with HTTP
                  clients, and print one JSON object
  --requests N    how many requests each gets under load (20000)
  --rounds N      in how many alternating rounds (20)
  --alone         without mimalloc";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print the usage.
    Help,
    /// Serve.
    Serve,
    /// Test.
    SelfTest,
}

/// All that can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) command: Command,
    pub(crate) port: u16,
    pub(crate) workers: usize,
    pub(crate) budget_bytes: usize,
    pub(crate) at_once: usize,
    pub(crate) requests: usize,
    pub(crate) rounds: usize,
    pub(crate) is_alone: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            command: Command::Serve,
            port: 8080,
            workers: 2,
            budget_bytes: 2 << 20,
            at_once: 32,
            requests: 20_000,
            rounds: 20,
            is_alone: false,
        }
    }
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            match &*name {
                "--help" => options.command = Command::Help,
                "--self-test" => options.command = Command::SelfTest,
                "--alone" => options.is_alone = true,
                "--port" => options.port = number(&name, arguments.next())?,
                "--workers" => options.workers = at_least_one(&name, arguments.next())?,
                "--budget" => options.budget_bytes = at_least_one(&name, arguments.next())?,
                "--at-once" => options.at_once = at_least_one(&name, arguments.next())?,
                "--requests" => options.requests = at_least_one(&name, arguments.next())?,
                "--rounds" => options.rounds = at_least_one(&name, arguments.next())?,
                _ => return Err(format!("`{name}` is no option")),
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("`{name}` wants a number"))?;
    value.parse().map_err(|_| format!("`{name}` wants a number and got `{value}`"))
}

fn at_least_one(name: &str, value: Option<String>) -> Result<usize, String> {
    match number(name, value)? {
        0 => Err(format!("`{name}` wants at least 1")),
        number => Ok(number),
    }
}
