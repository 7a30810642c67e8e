//! Strings before which a text ends, wherever it is cut into pieces.

/// Where in a text a stop begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// At this byte.
    At(usize),
    /// Nowhere; from this byte on the text may turn out to be the beginning of one. It is the text's length if it
    /// cannot.
    NotBefore(usize),
}

/// Looks for the first of `stops` in `text`, in which none begins before the byte `from`.
pub(crate) fn find(stops: &[String], text: &str, from: usize) -> Found {
    let rest = &text[from..];
    if let Some(at) = stops.iter().filter_map(|stop| rest.find(stop.as_str())).min() {
        return Found::At(from + at);
    }
    let held = stops.iter().map(|stop| overlap(rest, stop)).max().unwrap_or(0);
    Found::NotBefore(text.len() - held)
}

/// How many bytes at the end of `text` are the beginning of `stop`, but not all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).rev();
    starts.into_iter().find(|&len| text.ends_with(&stop[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(of: &[&str]) -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_of_several_counts() {
        let stops = stops(&["User:", "er", "\n\n"]);
        assert_eq!(find(&stops, "a User: b", 0), Found::At(2));
        assert_eq!(find(&stops, "a \n\nUser:", 0), Found::At(2));
        assert_eq!(find(&stops, "never", 0), Found::At(3));
        assert_eq!(find(&[], "User:", 0), Found::NotBefore(5));
    }

    #[test]
    fn what_may_become_a_stop_is_held_back() {
        let stops = stops(&["User:", "Ué"]);
        assert_eq!(find(&stops, "a Use", 0), Found::NotBefore(2));
        assert_eq!(find(&stops, "a U", 0), Found::NotBefore(2));
        assert_eq!(find(&stops, "a User", 3), Found::NotBefore(6));
        assert_eq!(find(&stops, "é Uu", 0), Found::NotBefore(5));
    }

    proptest! {
        #[test]
        fn pieces_end_where_the_whole_does(
            text in "[ab\u{e9}]{0,12}",
            stops in proptest::collection::vec("[ab\u{e9}]{1,4}", 0..3),
        ) {
            let mut from = 0;
            for end in text.char_indices().map(|(at, c)| at + c.len_utf8()) {
                let first = stops.iter().filter_map(|stop| text[..end].find(stop.as_str())).min();
                match find(&stops, &text[..end], from) {
                    Found::At(at) => {
                        prop_assert_eq!(Some(at), first);
                        return Ok(());
                    }
                    Found::NotBefore(held) => {
                        prop_assert_eq!(first, None);
                        prop_assert!(held >= from);
                        // What is given out is in no stop, however the text goes on.
                        if let Some(at) = stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
                            prop_assert!(held <= at);
                        }
                        from = held;
                    }
                }
            }
        }
    }
}
