//! Texts and numbers as a page shows them, the same in every locale.

use std::path::Path;

/// `text` between tags or in an attribute. Control characters, which a page cannot show and a terminal would
/// obey, become the replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

/// A JSON string that cannot end the script element it stands in.
pub(super) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('<', "\\u003c")
}

/// Parts of a page, one after the other.
pub(super) fn joined(parts: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    parts.for_each(|part| out.push_str(&part));
    out
}

/// `12345.6` → `12,346`.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `75.4` → `1:15`, `3725` → `1:02:05`; below a minute `12 s`.
pub(super) fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (h, m, s) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (h, m) {
        (0, 0) => format!("{s} s"),
        (0, m) => format!("{m}:{s:02} min"),
        (h, m) => format!("{h}:{m:02}:{s:02} h"),
    }
}

/// A number with at most this many significant digits, and no zeros that say nothing.
pub(super) fn significant(value: f64, digits: usize) -> String {
    // The first form rounds, the second writes it without an exponent.
    let rounded: f64 = format!("{:.*e}", digits.saturating_sub(1), value).parse().unwrap_or(value);
    rounded.to_string()
}

/// The last part of a path, and of a run's `model.bin` the run's name: where it lies on this machine is nobody's
/// business.
pub(super) fn name_of(path: &Path) -> String {
    let path = match path.parent() {
        Some(run) if path.ends_with("model.bin") && run.file_name().is_some() => run,
        _ => path,
    };
    // Windows' paths too, wherever the page is made.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit('\\').next().unwrap_or_default().to_owned()
}

/// `text` without the word that the limit on its length has cut; without spaces at its end.
pub(super) fn whole_words(text: &str) -> &str {
    let kept = text.rfind(char::is_whitespace).map_or("", |end| &text[..end]).trim_end();
    if kept.is_empty() { text.trim_end() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!([0.0, 999.0, 1000.0, 1_234_567.4].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([11.6, 75.4, 3725.0].map(clock), ["12 s", "1:15 min", "1:02:05 h"]);
        let numbers = [(2.740_04, "2.74"), (3e-5, "0.00003"), (123_456.0, "123500"), (0.0, "0")];
        for (value, expected) in numbers {
            assert_eq!(significant(value, 4), expected);
        }
    }

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(escape("<a b='\"'>&\u{1b}[31m\n"), "&lt;a b=&#39;&quot;&#39;&gt;&amp;\u{fffd}[31m\n");
        assert_eq!(json_string("</script>\"\u{1b}"), "\"\\u003c/script>\\\"\\u001b\"");
    }

    #[test]
    fn a_text_ends_with_a_whole_word() {
        assert_eq!(whole_words("\nto be or no"), "\nto be or");
        assert_eq!(whole_words("to be\n\n"), "to be");
        assert_eq!([whole_words("unbroken"), whole_words(""), whole_words(" a")], ["unbroken", "", " a"]);
    }

    #[test]
    fn of_a_path_only_the_name_is_left() {
        let names = [
            "/home/me/book.txt",
            "/home/me/runs/a/model.bin",
            "book.txt",
            r"C:\me\book.txt",
            "model.bin",
            "/",
        ];
        let names = names.map(|path| name_of(Path::new(path)));
        assert_eq!(names, ["book.txt", "a", "book.txt", "book.txt", "model.bin", ""]);
    }
}
