//! A short text that a regular expression matches.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Longest text that is made; a pattern that wants more is given up.
const MAX_LEN: usize = 10_000;

/// The shortest plain way through `pattern`; `None` where it cannot be read or is too long.
pub(crate) fn shortest(pattern: &str) -> Option<String> {
    let parsed = regex_syntax::parse(pattern).ok()?;
    let mut text = String::new();
    write(&parsed, &mut text)?;
    Some(text)
}

fn write(hir: &Hir, text: &mut String) -> Option<()> {
    if text.len() > MAX_LEN {
        return None;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(class) => text.push(member(class)?),
        HirKind::Repetition(repetition) => {
            for _ in 0..repetition.min {
                write(&repetition.sub, text)?;
            }
        }
        HirKind::Capture(capture) => write(&capture.sub, text)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, text))?,
        HirKind::Alternation(options) => write(options.first()?, text)?,
    }
    Some(())
}

/// A letter or digit of the class if it has one.
fn member(class: &Class) -> Option<char> {
    match class {
        Class::Unicode(class) => {
            let plain =
                |c: &char| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(c));
            let first = || class.ranges().first().map(regex_syntax::hir::ClassUnicodeRange::start);
            ('a'..='z').chain('A'..='Z').chain('0'..='9').find(plain).or_else(first)
        }
        Class::Bytes(class) => class.ranges().first().map(|range| char::from(range.start())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_through() {
        for (pattern, text) in [
            (r"^[A-Z]{3}-\d{4}$", Some("AAA-0000")),
            (r"^(cat|dog)s?$", Some("cat")),
            (r"^[^@]+@[a-z]+\.com$", Some("a@a.com")),
            (r"x{99999}", None),
            (r"(", None),
        ] {
            assert_eq!(shortest(pattern).as_deref(), text, "{pattern}");
        }
    }
}
