//! How the programs compare by one measure, row by row and in the mean.

use workloads::WORKLOADS;

use crate::programs::{PROGRAMS, Program, Role};
use crate::results::Row;
use crate::statistics::Figure;

pub(crate) struct Comparison {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Those that ran any row.
    pub(crate) programs: Vec<&'static Program>,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) row: Row,
    /// The peer with the least median; where no peer ran, whoever has it.
    pub(crate) best: &'static Program,
    /// In the measure's unit.
    pub(crate) best_figure: Figure,
    /// Of each program of the comparison, in its order, to the best: none where it does not run.
    pub(crate) ratios: Vec<Option<Figure>>,
}

impl Comparison {
    /// Of all rows that anything ran; `figure` tells what a program took in one.
    pub(crate) fn of(
        name: &'static str,
        unit: &'static str,
        figure: impl Fn(Row, &Program) -> Option<Figure>,
    ) -> Self {
        let rows = WORKLOADS.iter().flat_map(|workload| {
            workload.threads.iter().map(move |&threads| Row { workload, threads })
        });
        let taken: Vec<(Row, Vec<Option<Figure>>)> = rows
            .map(|row| (row, PROGRAMS.iter().map(|program| figure(row, program)).collect()))
            .collect();
        let ran = |place: usize| taken.iter().any(|(_, figures)| figures[place].is_some());
        let places: Vec<usize> = (0..PROGRAMS.len()).filter(|&place| ran(place)).collect();
        let lines = taken.iter().filter_map(|(row, figures)| Line::of(*row, figures, &places));
        let lines = lines.collect();
        Self { name, unit, programs: places.iter().map(|&place| &PROGRAMS[place]).collect(), lines }
    }

    /// A program's geometric mean of the ratios to each row's best: over the workloads, each of
    /// which counts once, whatever its counts of threads. None if there is a row it does not run.
    pub(crate) fn mean(&self, program: &Program, threads: Option<usize>) -> Option<Figure> {
        let place = self.programs.iter().position(|known| known.name == program.name)?;
        let is_wanted = |line: &&Line| threads.is_none_or(|threads| line.row.threads == threads);
        let mut of_workloads = Vec::new();
        for workload in WORKLOADS {
            let lines = self.lines.iter().filter(is_wanted);
            let ratios: Vec<Figure> = lines
                .filter(|line| line.row.workload.name == workload.name)
                .map(|line| line.ratios[place].clone())
                .collect::<Option<_>>()?;
            if !ratios.is_empty() {
                of_workloads.push(Figure::geometric_mean(&ratios));
            }
        }
        (!of_workloads.is_empty()).then(|| Figure::geometric_mean(&of_workloads))
    }

    /// The means of all programs, as ratios to that of the best single peer.
    pub(crate) fn means(&self, threads: Option<usize>) -> Vec<(&'static Program, Option<Figure>)> {
        let means: Vec<_> =
            self.programs.iter().map(|&program| (program, self.mean(program, threads))).collect();
        let best = |is_wanted: &dyn Fn(Role) -> bool| {
            let wanted = means.iter().filter(|(program, _)| is_wanted(program.role));
            let wanted = wanted.filter_map(|(_, mean)| mean.clone());
            wanted.min_by(|one, other| one.middle.total_cmp(&other.middle))
        };
        let Some(best) = best(&|role| role == Role::Peer).or_else(|| best(&|_| true)) else {
            return means;
        };
        means
            .into_iter()
            .map(|(program, mean)| (program, mean.map(|mean| mean.ratio_to(&best))))
            .collect()
    }

    /// In each row that both ran, the first's ratio to the second.
    pub(crate) fn between(&self, one: &str, other: &str) -> Vec<(Row, Figure)> {
        let place = |name| self.programs.iter().position(|program| program.name == name);
        let (Some(one), Some(other)) = (place(one), place(other)) else { return Vec::new() };
        let both = |line: &Line| {
            let ratio = line.ratios[one].as_ref()?.ratio_to(line.ratios[other].as_ref()?);
            Some((line.row, ratio))
        };
        self.lines.iter().filter_map(both).collect()
    }
}

impl Line {
    fn of(row: Row, figures: &[Option<Figure>], places: &[usize]) -> Option<Self> {
        let best = |is_wanted: &dyn Fn(Role) -> bool| {
            PROGRAMS
                .iter()
                .zip(figures)
                .filter(|(program, _)| is_wanted(program.role))
                .filter_map(|(program, figure)| Some((program, figure.as_ref()?)))
                .min_by(|one, other| one.1.middle.total_cmp(&other.1.middle))
        };
        let (best, best_figure) = best(&|role| role == Role::Peer).or_else(|| best(&|_| true))?;
        let ratio = |figure: &Figure| figure.ratio_to(best_figure);
        let ratios = places.iter().map(|&place| figures[place].as_ref().map(ratio)).collect();
        Some(Self { row, best, best_figure: best_figure.clone(), ratios })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::results::WALL_TIME;
    use crate::results::tests::sample;

    pub(crate) fn comparison(seconds: impl Fn(Row, &Program) -> f64) -> Comparison {
        let results = sample(seconds);
        Comparison::of(WALL_TIME.name, WALL_TIME.unit, |row, program| {
            results.figure(row, program, WALL_TIME)
        })
    }

    #[test]
    fn the_best_is_a_peer_and_neither_subject_nor_floor() {
        let comparison = comparison(|_, program| match program.name {
            "heapswitch" | "floor" => 0.5,
            "snmalloc" => 1.0,
            _ => 2.0,
        });
        let line = &comparison.lines[0];
        assert_eq!((line.best.name, line.best_figure.middle), ("snmalloc", 1000.0));
        let means: Vec<(&str, Option<f64>)> = comparison
            .means(None)
            .iter()
            .map(|(program, mean)| (program.name, mean.as_ref().map(|mean| mean.middle)))
            .collect();
        assert!(means.contains(&("snmalloc", Some(1.0))));
        assert!(means.contains(&("floor", None)), "it does not run every row");
        let (_, of_subject) = means[0];
        assert!((of_subject.expect("it runs every row") - 0.5).abs() < 1e-9);
    }

    #[test]
    fn each_workload_counts_once_in_the_mean() {
        // Half the time wherever there are two threads, which every workload has, of two or three.
        let comparison = comparison(|row, program| match program.name {
            "heapswitch" if row.threads == 2 => 0.5,
            _ => 1.0,
        });
        let paired = WORKLOADS.iter().filter(|workload| workload.threads.len() == 2).count() as f64;
        let others = WORKLOADS.len() as f64 - paired;
        let expected = 0.5_f64.powf((paired / 2.0 + others / 3.0) / (paired + others));
        let mean = comparison.mean(&PROGRAMS[0], None).expect("it runs every row").middle;
        assert!((mean - expected).abs() < 1e-9, "{mean} {expected}");
        let at_two = comparison.mean(&PROGRAMS[0], Some(2)).expect("it runs every row").middle;
        assert!((at_two - 0.5).abs() < 1e-9);
    }
}
