//! What simulated tables hold: shares of key positions, not keys.
//!
//! A key is a *position*, a number. A [`Segment`] is a range of positions with, for each *class* of
//! keys, the share that has a value and the share that has a tombstone. Keys of a class are written
//! equally often and lie everywhere in the range, as hashed keys do, so that within a class the
//! versions in two runs are independent: the expected union of two runs is exact, class by class,
//! also where some keys are much hotter than others. Counts are expectations; nothing is drawn.
//!
//! A table keeps a few segments. More are joined with those of their neighbours that are most like
//! them: counts stay, only their place blurs.

/// What a table's segments are reduced to.
const SEGMENTS_MAX: usize = 8;

/// Neighbours that differ by less than this share of their density are joined at once.
const ALIKE: f64 = 0.02;

/// Of the positions of a class: how many hold a value, and how many a tombstone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    pub(crate) live: f64,
    pub(crate) dead: f64,
}

/// Positions from `low`, and before `high`, with the shares of each class.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) shares: Box<[Share]>,
}

/// The share of all positions that each class has. They sum up to 1.
pub(crate) type Classes = std::sync::Arc<[f64]>;

/// Expected entries: those with a value, and tombstones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Entries {
    pub(crate) live: f64,
    pub(crate) dead: f64,
}

impl Segment {
    /// A segment of positions of a single class.
    #[cfg(test)]
    pub(crate) fn of_one_class(low: u64, high: u64, live: f64, dead: f64) -> Self {
        Segment { low, high, shares: Box::new([Share { live, dead }]) }
    }

    pub(crate) fn width(&self) -> f64 {
        (self.high - self.low) as f64
    }

    /// Entries for each position.
    pub(crate) fn density(&self, classes: &[f64]) -> Entries {
        let mut sum = Entries::default();
        for (class, share) in classes.iter().zip(&self.shares) {
            sum.live += class * share.live;
            sum.dead += class * share.dead;
        }
        sum
    }

    fn is_empty(&self) -> bool {
        self.shares.iter().all(|share| share.live <= 0.0 && share.dead <= 0.0)
    }

    /// The segment with `share` of its values turned into tombstones: they expired, and still hide
    /// what is older.
    pub(crate) fn expire(&mut self, share: f64) {
        for of_class in &mut self.shares {
            let expired = of_class.live * share;
            of_class.live -= expired;
            of_class.dead += expired;
        }
    }
}

/// The expected entries of all segments.
pub(crate) fn entries(segments: &[Segment], classes: &[f64]) -> Entries {
    let mut sum = Entries::default();
    for segment in segments {
        let density = segment.density(classes);
        sum.live += segment.width() * density.live;
        sum.dead += segment.width() * density.dead;
    }
    sum
}

/// The newest version of each key of the runs, which stand newest first; each is in order.
pub(crate) fn union(runs: &[Vec<Segment>]) -> Vec<Segment> {
    let class_count = runs.iter().flatten().map(|s| s.shares.len()).next().unwrap_or(0);
    let mut cuts: Vec<u64> = runs.iter().flatten().flat_map(|s| [s.low, s.high]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut positions = vec![0; runs.len()];
    let mut out = Vec::with_capacity(cuts.len());
    for pair in cuts.windows(2) {
        let mut shares = vec![Share::default(); class_count].into_boxed_slice();
        for (run, position) in runs.iter().zip(&mut positions) {
            while run.get(*position).is_some_and(|s| s.high <= pair[0]) {
                *position += 1;
            }
            if let Some(s) = run.get(*position).filter(|s| s.low <= pair[0]) {
                for (sum, below) in shares.iter_mut().zip(&s.shares) {
                    let uncovered = (1.0 - sum.live - sum.dead).max(0.0);
                    sum.live += uncovered * below.live;
                    sum.dead += uncovered * below.dead;
                }
            }
        }
        let segment = Segment { low: pair[0], high: pair[1], shares };
        if !segment.is_empty() {
            out.push(segment);
        }
    }
    out
}

/// The part of `segment` from `low` to before `high`.
pub(crate) fn part(segment: &Segment, low: u64, high: u64) -> Segment {
    Segment { low, high, shares: segment.shares.clone() }
}

/// Joins neighbours that are alike, and then, while there are too many, the two most alike.
pub(crate) fn simplify(segments: Vec<Segment>, classes: &[f64]) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::with_capacity(segments.len().min(SEGMENTS_MAX + 1));
    for segment in segments {
        match out.last_mut() {
            Some(last) if difference(last, &segment, classes) < ALIKE => join(last, &segment),
            _ => out.push(segment),
        }
    }
    while out.len() > SEGMENTS_MAX {
        let cost = |pair: &[Segment]| {
            let width = pair[0].width().min(pair[1].width());
            width * difference(&pair[0], &pair[1], classes)
        };
        let costs = out.windows(2).map(cost).enumerate();
        let (at, _) = costs.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        let next = out.remove(at + 1);
        join(&mut out[at], &next);
    }
    out
}

/// How unlike two neighbours are: 0 for equal densities, 1 and more for a gap or an empty one.
fn difference(left: &Segment, right: &Segment, classes: &[f64]) -> f64 {
    let (a, b) = (left.density(classes), right.density(classes));
    let most = (a.live + a.dead).max(b.live + b.dead).max(f64::MIN_POSITIVE);
    let gap = (right.low - left.high) as f64 / left.width().min(right.width());
    ((a.live - b.live).abs() + (a.dead - b.dead).abs()) / most + gap
}

fn join(left: &mut Segment, right: &Segment) {
    let (left_width, right_width) = (left.width(), right.width());
    left.high = right.high;
    let whole = left.width();
    for (a, b) in left.shares.iter_mut().zip(&right.shares) {
        a.live = (a.live * left_width + b.live * right_width) / whole;
        a.dead = (a.dead * left_width + b.dead * right_width) / whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(low: u64, high: u64, live: f64, dead: f64) -> Segment {
        Segment::of_one_class(low, high, live, dead)
    }

    #[test]
    fn a_newer_run_hides_its_share_of_an_older_one() {
        let newer = vec![segment(0, 100, 0.25, 0.25)];
        let older = vec![segment(50, 150, 1.0, 0.0)];
        let merged = union(&[newer, older]);
        let expected = vec![
            segment(0, 50, 0.25, 0.25),
            segment(50, 100, 0.75, 0.25),
            segment(100, 150, 1.0, 0.0),
        ];
        assert_eq!(merged, expected);
        let sum = entries(&merged, &[1.0]);
        assert_eq!((sum.live, sum.dead), (12.5 + 37.5 + 50.0, 12.5 + 12.5));
    }

    #[test]
    fn classes_do_not_hide_each_other() {
        let hot = Share { live: 1.0, dead: 0.0 };
        let cold = Share { live: 0.5, dead: 0.0 };
        let run = || vec![Segment { low: 0, high: 100, shares: Box::new([hot, cold]) }];
        let merged = union(&[run(), run()]);
        let sum = entries(&merged, &[0.1, 0.9]);
        assert!((sum.live - (10.0 + 90.0 * 0.75)).abs() < 1e-9, "{sum:?}");
    }

    #[test]
    fn simplified_segments_keep_their_counts() {
        let many: Vec<Segment> =
            (0..100).map(|at| segment(at * 10, at * 10 + 9, (at % 7) as f64 / 7.0, 0.1)).collect();
        let before = entries(&many, &[1.0]);
        let few = simplify(many, &[1.0]);
        let after = entries(&few, &[1.0]);
        assert_eq!(few.len(), SEGMENTS_MAX);
        assert!((before.live - after.live).abs() < 1e-6 && (before.dead - after.dead).abs() < 1e-6);
        assert_eq!((few[0].low, few[SEGMENTS_MAX - 1].high), (0, 999));
    }

    #[test]
    fn what_expires_still_hides() {
        let mut old = segment(0, 10, 0.8, 0.1);
        old.expire(0.5);
        assert_eq!(old.shares[0], Share { live: 0.4, dead: 0.5 });
    }
}
