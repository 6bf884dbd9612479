//! The command line.

use workloads::WORKLOADS;

use crate::PEERS;

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) profile: String,
    pub(crate) is_smoke: bool,
    peers: Option<String>,
    workloads: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: 15,
            profile: "release".to_owned(),
            is_smoke: false,
            peers: None,
            workloads: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| format!("what follows {argument} is missing"));
            match argument.as_str() {
                "--rounds" => {
                    let rounds = value()?;
                    let number = rounds.parse().ok().filter(|&number| number > 0);
                    options.rounds = number.ok_or_else(|| format!("{rounds} rounds?"))?;
                }
                "--profile" => options.profile = value()?,
                "--peers" => options.peers = Some(value()?),
                "--smoke" => options.is_smoke = true,
                name if is_workload(name) => options.workloads.push(argument),
                other => {
                    return Err(format!("{other} is neither an option nor a workload"));
                }
            }
        }
        Ok(options)
    }

    pub(crate) fn peers(&self) -> Vec<String> {
        match &self.peers {
            Some(names) => names.split(',').map(str::to_owned).collect(),
            None => PEERS.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    pub(crate) fn workloads(&self) -> Vec<String> {
        if self.workloads.is_empty() {
            return WORKLOADS.iter().map(|known| known.name.to_owned()).collect();
        }
        self.workloads.clone()
    }
}

fn is_workload(name: &str) -> bool {
    WORKLOADS.iter().any(|known| known.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let options = parse("--rounds 3 --peers a,b --smoke tree").expect("a good line");
        assert_eq!((options.rounds, options.is_smoke), (3, true));
        assert_eq!(
            (options.peers(), options.workloads()),
            (vec!["a".into(), "b".into()], vec!["tree".into()])
        );
        assert_eq!(parse("").expect("nothing").workloads().len(), WORKLOADS.len());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--rounds", "--rounds 0", "--rounds x", "--round 1", "trees"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
