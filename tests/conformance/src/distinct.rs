//! Things for wishes, none of them for two.

use std::collections::{BTreeMap, BTreeSet};

/// Gives each wish one of the things that would do for it, and no thing to two: `wishes[i]` are those that would do for
/// wish `i`. What the first wishes take is changed again where a later one would be left without.
///
/// # Errors
/// The first wish for which there is nothing, however the others are served.
pub fn distinct(wishes: &[Vec<usize>]) -> Result<Vec<usize>, usize> {
    let mut takers = BTreeMap::new();
    for wish in 0..wishes.len() {
        if !serve(wishes, wish, &mut takers, &mut BTreeSet::new()) {
            return Err(wish);
        }
    }
    let things: BTreeMap<usize, usize> = takers
        .into_iter()
        .map(|(thing, wish)| (wish, thing))
        .collect();
    Ok(things.into_values().collect())
}

/// Finds something for a wish; who has it is given another. `asked` are the things that were asked for on the way.
fn serve(
    wishes: &[Vec<usize>],
    wish: usize,
    takers: &mut BTreeMap<usize, usize>,
    asked: &mut BTreeSet<usize>,
) -> bool {
    for thing in &wishes[wish] {
        if !asked.insert(*thing) {
            continue;
        }
        let taker = takers.get(thing).copied();
        if taker.is_none_or(|taker| serve(wishes, taker, takers, asked)) {
            takers.insert(*thing, wish);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_given_twice_and_nobody_is_left_without_need() {
        for (wishes, served) in [
            (vec![], Ok(vec![])),
            (vec![vec![2]], Ok(vec![2])),
            (vec![vec![0], vec![0, 1]], Ok(vec![0, 1])),
            // The first has to give way.
            (vec![vec![0, 1], vec![0]], Ok(vec![1, 0])),
            (vec![vec![0, 1], vec![1, 2], vec![0]], Ok(vec![1, 2, 0])),
            (vec![vec![0], vec![0]], Err(1)),
            (vec![vec![1], vec![]], Err(1)),
            (vec![vec![0, 1], vec![0, 1], vec![1, 0]], Err(2)),
        ] {
            assert_eq!(distinct(&wishes), served, "{wishes:?}");
        }
    }
}
