//! Medians, and how far they can be trusted.
//!
//! The intervals are bootstrapped: as if the rounds were run again and again, rounds are drawn with
//! replacement from those that were run, a thousand times, and everything that the table shows is
//! computed anew from each draw. The middle 95 % of what comes out is the interval. A draw takes
//! the same rounds of every program, for within a round all had the machine in much the same state.

use crate::random::Random;

/// How often rounds are drawn.
const DRAWS: usize = 1000;
/// The part of the draws that lies below the interval, and above it.
const TAIL: f64 = 0.025;

/// A figure computed from all rounds, and from each draw of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) middle: f64,
    draws: Vec<f64>,
}

impl Figure {
    /// The median of measurements, one a round and at least one. Figures of as many rounds draw the
    /// same ones for the same `seed`.
    pub(crate) fn median(rounds: &[f64], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut drawn = vec![0.0; rounds.len()];
        let draws = (0..DRAWS).map(|_| {
            drawn.fill_with(|| rounds[random.below(rounds.len())]);
            median(&mut drawn)
        });
        Self { draws: draws.collect(), middle: median(&mut rounds.to_vec()) }
    }

    /// The same for every draw.
    pub(crate) fn exact(value: f64) -> Self {
        Self { middle: value, draws: vec![value; DRAWS] }
    }

    pub(crate) fn ratio_to(&self, other: &Self) -> Self {
        let draws = self.draws.iter().zip(&other.draws).map(|(one, other)| one / other).collect();
        Self { middle: self.middle / other.middle, draws }
    }

    /// Of at least one figure.
    pub(crate) fn geometric_mean(figures: &[Self]) -> Self {
        let mean = |of: &dyn Fn(&Self) -> f64| {
            (figures.iter().map(|figure| of(figure).ln()).sum::<f64>() / figures.len() as f64).exp()
        };
        Self {
            middle: mean(&|figure| figure.middle),
            draws: (0..DRAWS).map(|draw| mean(&|figure| figure.draws[draw])).collect(),
        }
    }

    /// The lower and the upper end of the interval.
    pub(crate) fn interval(&self) -> (f64, f64) {
        let mut sorted = self.draws.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted[(part * (DRAWS - 1) as f64).round() as usize];
        (at(TAIL), at(1.0 - TAIL))
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[half - 1], values[half])
    } else {
        values[half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_its_interval() {
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        let rounds: Vec<f64> = (1..=15).map(f64::from).collect();
        let figure = Figure::median(&rounds, 1);
        let (low, high) = figure.interval();
        assert_eq!(figure.middle, 8.0);
        // By the binomial distribution the median of 15 drawn lies between the fourth and the
        // twelfth in 95 of 100 draws.
        assert!((3.0..=5.0).contains(&low) && (11.0..=13.0).contains(&high), "{low} {high}");
        assert_eq!(Figure::median(&[7.0], 1).interval(), (7.0, 7.0));
    }

    #[test]
    fn what_hits_both_alike_does_not_widen_their_ratio() {
        let rounds: Vec<f64> = (1..=9).map(f64::from).collect();
        let doubled: Vec<f64> = rounds.iter().map(|round| 2.0 * round).collect();
        let ratio = Figure::median(&doubled, 5).ratio_to(&Figure::median(&rounds, 5));
        assert_eq!((ratio.middle, ratio.interval()), (2.0, (2.0, 2.0)));
    }

    #[test]
    fn the_geometric_mean_of_half_and_double_is_one() {
        let mean = Figure::geometric_mean(&[Figure::exact(0.5), Figure::exact(2.0)]);
        assert_eq!((mean.middle, mean.interval()), (1.0, (1.0, 1.0)));
    }
}
