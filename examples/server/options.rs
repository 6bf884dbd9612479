//! The command line.

use std::time::Duration;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: server [OPTIONS]

Serves HTTP on the loopback address:
  GET  /         what there is
  GET  /heaps    what the process's heaps hold, as JSON
  POST /words    {\"text\": ...}: its words, counted
  POST /numbers  [...]: sorted, with sum and mean

Options:
  --port PORT         Listen there; 0, the default, lets the system choose and prints the port
  --requests COUNT    Stop after so many answers
  --timeout SECONDS   Close connections on which nothing moves for so long; 10 by default
  --help              Print this
";

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) most_requests: usize,
    pub(crate) timeout: Duration,
}

impl Options {
    /// Reads the arguments, without the program's name; `None` where help is asked for.
    pub(crate) fn parse(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<Option<Self>, String> {
        let mut options =
            Self { port: 0, most_requests: usize::MAX, timeout: Duration::from_secs(10) };
        while let Some(name) = arguments.next() {
            let mut value = || {
                let value =
                    arguments.next().ok_or_else(|| format!("{name}: a number should follow"))?;
                value.parse::<u64>().map_err(|_| format!("{name}: {value} is no number"))
            };
            match &*name {
                "--help" | "-h" => return Ok(None),
                "--port" => {
                    let port = value()?;
                    options.port = u16::try_from(port)
                        .map_err(|_| format!("--port: {port} is above 65535"))?;
                }
                "--requests" => {
                    options.most_requests = usize::try_from(value()?).unwrap_or(usize::MAX).max(1);
                }
                "--timeout" => options.timeout = Duration::from_secs(value()?.clamp(1, 3600)),
                _ => return Err(format!("there is no option {name}")),
            }
        }
        Ok(Some(options))
    }
}
