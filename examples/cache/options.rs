//! The command line.

/// Which cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Store,
    Map,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Map => "map",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub operations: u64,
    pub capacity_bytes: usize,
    pub threads: u64,
    pub only: Option<Side>,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { operations: 1_000_000, capacity_bytes: 32 << 20, threads: 2, only: None };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
            let number = || value.parse::<u64>().ok().filter(|number| *number > 0);
            let wrong = || format!("{name} wants a number above zero, not {value}");
            match name.as_str() {
                "--operations" => options.operations = number().ok_or_else(wrong)?,
                "--capacity" => options.capacity_bytes = number().ok_or_else(wrong)? as usize,
                "--threads" => options.threads = number().ok_or_else(wrong)?,
                "--only" if value == "store" => options.only = Some(Side::Store),
                "--only" if value == "map" => options.only = Some(Side::Map),
                _ => return Err(format!("{name} {value}: there is no such option")),
            }
        }
        // The longest value must fit.
        if options.capacity_bytes < 64 << 10 {
            return Err("the capacity is at least 65536 bytes".into());
        }
        Ok(options)
    }
}
