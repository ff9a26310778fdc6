//! How deep a policy file nests, before the Cedar parser sees it: that parser calls itself for every level, and a
//! process whose stack is used up is gone. Knows brackets, strings and comments, and no grammar.

use crate::diag::Span;

/// Deepest nesting of brackets, and longest row of things that bind to what follows them (`!`, `-`, `if`, `else`).
pub(super) const NESTING_MAX: usize = 64;

/// What nests at one level of brackets.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Prefixes in front of the bracket that opened it.
    prefixes: usize,
    /// `if` and `else` inside it so far.
    ifs: usize,
}

/// The place where a text nests deeper than [`NESTING_MAX`].
pub(super) fn too_deep(text: &str) -> Option<Span> {
    let bytes = text.as_bytes();
    let (mut outer, mut level) = (Vec::new(), Level::default());
    let (mut deep, mut prefixes, mut at) = (0, 0, 0);
    while let Some(byte) = bytes.get(at).copied() {
        let start = at;
        at += 1;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'!' | b'-' => prefixes += 1,
            b'(' | b'[' | b'{' => {
                deep += level.ifs + prefixes + 1;
                outer.push(std::mem::replace(&mut level, Level { prefixes, ifs: 0 }));
                prefixes = 0;
            }
            b')' | b']' | b'}' => {
                if let Some(around) = outer.pop() {
                    deep -= around.ifs + level.prefixes + 1;
                    level = around;
                }
                prefixes = 0;
            }
            b'"' => (at, prefixes) = (behind_string(bytes, start), 0),
            b'/' if bytes.get(at) == Some(&b'/') => {
                at = bytes
                    .iter()
                    .skip(at)
                    .position(|byte| *byte == b'\n')
                    .map_or(bytes.len(), |line| at + line);
            }
            // A list's next member and a file's next policy begin anew.
            b',' | b';' => (level.ifs, prefixes) = (0, 0),
            _ => {
                prefixes = 0;
                level.ifs += usize::from(is_word(bytes, start, b"if") || is_word(bytes, start, b"else"));
            }
        }
        if deep + level.ifs + prefixes > NESTING_MAX {
            return Some(start..at);
        }
    }
    None
}

fn is_word(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    let is_letter =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    bytes.get(at..at + word.len()) == Some(word)
        && !is_letter(bytes.get(at + word.len()))
        && !is_letter(at.checked_sub(1).and_then(|before| bytes.get(before)))
}

/// The byte behind the string that begins at `start`.
fn behind_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    #[track_caller]
    fn check(text: &str, too_deep: bool) {
        assert_eq!(super::too_deep(text).is_some(), too_deep, "{text}");
    }

    #[test]
    fn nesting_counts_brackets_and_prefixes_and_not_what_stands_in_strings() {
        let nested = |open: &str, levels: usize| {
            format!("permit (principal, action, resource) when {{ {}", open.repeat(levels))
        };
        check(&nested("(", 60), false);
        check(&nested("(", 64), true);
        check(&nested("[", 64), true);
        check(&nested("!", 64), true);
        check(&nested("-", 64), true);
        check(&nested("(!", 33), true);
        check(&nested("if a then b else ", 33), true);
        check(&nested("ifs elses ", 80), false);
        check(&format!("@message(\"{}\")", "((((".repeat(100)), false);
        check(&format!("// {}\n", "((((".repeat(100)), false);
        check(&"permit (principal, action, resource) when { !a };\n".repeat(1000), false);
        check(&format!("[{}]", "-1, ".repeat(1000)), false);
        check(&"!a && -b == c || ".repeat(100), false);
        check(&"(a) && ".repeat(100), false);
        check("\"\\", false);
        check(")))", false);
    }
}
