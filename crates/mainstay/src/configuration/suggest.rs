//! The known word that was most likely meant.

/// The nearest of `known` to `word`, if it is near enough to be a slip: at most a third of its letters differ.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, candidate) = known.iter().map(|known| (distance(word, known), *known)).min()?;
    (distance <= word.len().max(candidate.len()).div_ceil(3)).then_some(candidate)
}

/// How many letters must be inserted, removed or replaced (Levenshtein's distance).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        assert_eq!(nearest("leese", &["lease", "cluster"]), Some("lease"));
        assert_eq!(
            nearest("replication_pasword_file", &["replication_password_file"]),
            Some("replication_password_file")
        );
        assert_eq!(nearest("zebra", &["lease", "cluster"]), None);
    }
}
