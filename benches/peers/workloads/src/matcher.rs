//! A matcher of patterns: a pattern is parsed, compiled, and its automaton built state by state as
//! the text asks for it.

use std::collections::HashMap;
use std::hint::black_box;

use crate::random::Random;
use crate::{FixedHasher, Part};

const PATTERNS: [&str; 4] =
    ["(ab|ba)*c(d|e)*", "a(b|c|d)*e", "(a|b|c)*d(a|b)(a|b)(a|b)e", "(a(b(c|d)*e)*)*a"];

enum Pattern {
    Letter(u8),
    Sequence(Vec<Pattern>),
    Either(Vec<Pattern>),
    AnyNumber(Box<Pattern>),
}

/// The text's lines are searched for each pattern; each match is kept as a string.
pub(crate) fn matcher(part: Part) {
    const LINES: usize = 300;
    const LINE_LETTERS: usize = 60;
    let mut random = Random::of_thread(part.thread);
    let lines: Vec<String> = (0..LINES)
        .map(|_| (0..LINE_LETTERS).map(|_| char::from(b'a' + random.below(5) as u8)).collect())
        .collect();
    for _ in 0..part.repeats {
        for pattern in PATTERNS {
            let mut automaton = Automaton::of(&parsed(pattern));
            let matches: Vec<String> =
                lines.iter().flat_map(|line| automaton.matches(line)).collect();
            assert!(matches.len() > LINES / 10, "{pattern} matches {}", matches.len());
            black_box(matches);
        }
    }
}

fn parsed(text: &str) -> Pattern {
    fn either(text: &mut &[u8]) -> Pattern {
        let mut all = vec![sequence(text)];
        while let [b'|', rest @ ..] = *text {
            *text = rest;
            all.push(sequence(text));
        }
        Pattern::Either(all)
    }
    fn sequence(text: &mut &[u8]) -> Pattern {
        let mut all = Vec::new();
        while let [first, rest @ ..] = *text {
            let mut next = match first {
                b'|' | b')' => break,
                b'(' => {
                    *text = rest;
                    either(text)
                }
                letter => Pattern::Letter(*letter),
            };
            // Past the letter, or the bracket that closes.
            *text = &text[1..];
            if let [b'*', rest @ ..] = *text {
                *text = rest;
                next = Pattern::AnyNumber(Box::new(next));
            }
            all.push(next);
        }
        Pattern::Sequence(all)
    }
    either(&mut text.as_bytes())
}

/// What leads from a place of the pattern to the next.
#[derive(Clone, Copy)]
enum Step {
    Letter(u8, usize),
    Both(usize, usize),
    End,
}

/// A state is the set of places where the pattern may be: made when the text first leads there.
struct Automaton {
    steps: Vec<Step>,
    numbers: HashMap<Vec<usize>, usize, FixedHasher>,
    states: Vec<State>,
}

struct State {
    places: Vec<usize>,
    is_match: bool,
    next: Vec<Option<usize>>,
}

impl Automaton {
    fn of(pattern: &Pattern) -> Self {
        let mut steps = vec![Step::End];
        let start = compiled(pattern, 0, &mut steps);
        let mut automaton = Self { steps, numbers: HashMap::default(), states: Vec::new() };
        automaton.state(vec![start]);
        automaton
    }

    /// The number of the state of all places that the given ones lead to without a letter.
    fn state(&mut self, mut to_follow: Vec<usize>) -> usize {
        let mut places = Vec::new();
        while let Some(place) = to_follow.pop() {
            if !places.contains(&place) {
                places.push(place);
                if let Step::Both(one, other) = self.steps[place] {
                    to_follow.extend([one, other]);
                }
            }
        }
        places.sort_unstable();
        if let Some(&number) = self.numbers.get(&places) {
            return number;
        }
        let is_match = places.iter().any(|&place| matches!(self.steps[place], Step::End));
        self.numbers.insert(places.clone(), self.states.len());
        self.states.push(State { places, is_match, next: vec![None; 128] });
        self.states.len() - 1
    }

    fn after(&mut self, state: usize, letter: u8) -> usize {
        if let Some(known) = self.states[state].next[usize::from(letter)] {
            return known;
        }
        let places = self.states[state].places.iter();
        let reached = places.filter_map(|&place| match self.steps[place] {
            Step::Letter(wanted, next) if wanted == letter => Some(next),
            _ => None,
        });
        let reached = reached.collect();
        let next = self.state(reached);
        self.states[state].next[usize::from(letter)] = Some(next);
        next
    }

    /// The longest match from each place that has one of two letters or more.
    fn matches(&mut self, line: &str) -> Vec<String> {
        let mut found = Vec::new();
        for start in 0..line.len() {
            let (mut state, mut end) = (0, None);
            for (at, letter) in line.bytes().enumerate().skip(start) {
                state = self.after(state, letter);
                if self.states[state].places.is_empty() {
                    break;
                }
                if self.states[state].is_match {
                    end = Some(at + 1);
                }
            }
            if let Some(end) = end.filter(|end| end - start >= 2) {
                found.push(line[start..end].to_owned());
            }
        }
        found
    }
}

/// Appends the steps of a pattern that go on at `next`, and gives the first of them.
fn compiled(pattern: &Pattern, next: usize, steps: &mut Vec<Step>) -> usize {
    match pattern {
        Pattern::Letter(letter) => steps.push(Step::Letter(*letter, next)),
        Pattern::Sequence(all) => {
            return all.iter().rev().fold(next, |next, one| compiled(one, next, steps));
        }
        Pattern::Either(all) => {
            let mut starts = all.iter().map(|one| compiled(one, next, steps)).collect::<Vec<_>>();
            let mut first = starts.pop().expect("an alternative");
            while let Some(other) = starts.pop() {
                steps.push(Step::Both(other, first));
                first = steps.len() - 1;
            }
            return first;
        }
        Pattern::AnyNumber(one) => {
            steps.push(Step::End); // Its place is needed before what it leads to is known.
            let place = steps.len() - 1;
            let again = compiled(one, place, steps);
            steps[place] = Step::Both(again, next);
            return place;
        }
    }
    steps.len() - 1
}
