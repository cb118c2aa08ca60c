//! Slices of one thread, put back into the order in which they nest.
//!
//! A record is written when its bracket ends, so the inner bracket comes first. Perfetto pairs begins and ends of a
//! track as a stack, so the slices of a thread are held back until the ioctl around them ends.
//!
//! ```text
//! records:  mark  fast-fault  fault  RUN-end      slices:  RUN ( fault ( fast-fault ( mark ) ) )
//! ```

use crate::event::Nanos;

/// A slice to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice<T> {
    pub from: Nanos,
    pub to: Nanos,
    pub content: T,
}

/// A begin or an end.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Edge<T> {
    Begin(Nanos, T),
    End(Nanos),
}

/// The slices as begins and ends that nest. A slice that crosses the end of the one around it is cut there: records of
/// one thread cannot cross, save by rounding.
pub(super) fn nest<T>(mut slices: Vec<Slice<T>>) -> Vec<Edge<T>> {
    // The later record is the outer one, so among equal stretches it comes first.
    slices.reverse();
    slices.sort_by_key(|slice| (slice.from, std::cmp::Reverse(slice.to)));
    let mut edges = Vec::with_capacity(2 * slices.len());
    let mut ends: Vec<Nanos> = Vec::new();
    for Slice { from, to, content } in slices {
        while let Some(&end) = ends.last()
            && end <= from
        {
            edges.push(Edge::End(end));
            ends.pop();
        }
        ends.push(ends.last().map_or(to, |&outer| to.min(outer)));
        edges.push(Edge::Begin(from, content));
    }
    edges.extend(ends.into_iter().rev().map(Edge::End));
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(from: u64, to: u64, content: char) -> Slice<char> {
        Slice { from: Nanos(from), to: Nanos(to), content }
    }

    fn text(edges: &[Edge<char>]) -> String {
        edges
            .iter()
            .map(|edge| match edge {
                Edge::Begin(at, name) => format!("({name}{} ", at.0),
                Edge::End(at) => format!("{}) ", at.0),
            })
            .collect()
    }

    #[test]
    fn inner_first_records_nest() {
        let edges =
            nest(vec![slice(2, 3, 'm'), slice(1, 4, 'q'), slice(1, 5, 'f'), slice(5, 6, 'x')]);
        assert_eq!(text(&edges), "(f1 (q1 (m2 3) 4) 5) (x5 6) ");
    }

    #[test]
    fn of_equal_stretches_the_later_record_is_outside() {
        assert_eq!(text(&nest(vec![slice(1, 2, 'i'), slice(1, 2, 'o')])), "(o1 (i1 2) 2) ");
    }

    #[test]
    fn a_crossing_slice_is_cut() {
        assert_eq!(text(&nest(vec![slice(1, 5, 'a'), slice(3, 8, 'b')])), "(a1 (b3 5) 5) ");
    }
}
