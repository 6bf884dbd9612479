//! The table: a row for each heap, a column for each node.

use std::fmt;

use heapswitch::numa::{Node, Residence, Topology};

/// One heap's pages by node, in the order of the table's nodes, or why they are not known.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) pages: Result<Vec<usize>, String>,
    not_resident: usize,
    misplaced: usize,
}

/// Every heap that was looked at.
pub(crate) struct Placements {
    pub(crate) nodes: Vec<Node>,
    pub(crate) rows: Vec<Row>,
}

impl Placements {
    pub(crate) fn new(topology: &Topology) -> Self {
        Self { nodes: topology.nodes().iter().collect(), rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, name: String, residence: Result<Residence, String>) {
        let (not_resident, misplaced) = residence
            .as_ref()
            .map_or((0, 0), |residence| (residence.not_resident(), residence.misplaced()));
        let pages = residence.map(|residence| {
            self.nodes.iter().map(|&node| residence.on(node)).collect::<Vec<usize>>()
        });
        self.rows.push(Row { name, pages, not_resident, misplaced });
    }
}

impl fmt::Display for Placements {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<32}", "heap")?;
        for node in &self.nodes {
            write!(formatter, "{:>9}", format!("node {node}"))?;
        }
        writeln!(formatter, "{:>14}{:>11}", "not resident", "misplaced")?;
        for row in &self.rows {
            write!(formatter, "{:<32}", row.name)?;
            match &row.pages {
                Err(reason) => writeln!(formatter, "  not told: {reason}")?,
                Ok(pages) => {
                    for count in pages {
                        write!(formatter, "{count:>9}")?;
                    }
                    writeln!(formatter, "{:>14}{:>11}", row.not_resident, row.misplaced)?;
                }
            }
        }
        Ok(())
    }
}
