//! Just enough of Rust's grammar for the house rules: words outside comments and texts, the paths they
//! make, and where tests begin. No macro is expanded and no name is resolved but `crate`, `super`, `self`.

use std::collections::BTreeSet;

/// A module of the library, by the names on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module(Vec<String>);

impl Module {
    /// `None` for what is not a module of the library: `lib.rs`, `main.rs`, files elsewhere.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let path = name.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        (!["lib", "main"].contains(&path)).then(|| Self(path.split('/').map(str::to_owned).collect()))
    }

    pub(super) fn top(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Whether it is one of `modules` or within one; each is written `a::b`. Files that hold nothing but the
    /// tests of the file beside them are called `x_tests.rs`.
    pub(super) fn is_within(&self, modules: &BTreeSet<String>) -> bool {
        let is_tests = self.0.last().is_some_and(|name| name.ends_with("_tests"));
        is_tests || (1..=self.0.len()).any(|depth| modules.contains(&self.0[..depth].join("::")))
    }
}

/// A path that the code names, `use` groups taken apart, `super` and `self` resolved to `crate`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CodePath {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// The code of one module without its tests.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) module: Module,
    pub(super) paths: Vec<CodePath>,
}

impl Source {
    pub(super) fn parse(module: Module, text: &str) -> Self {
        let tokens = without_tests(&tokens(text));
        let mut paths = Vec::new();
        let mut inline: Vec<(String, usize)> = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inline.retain(|(_, opened)| *opened <= depth);
                }
                "mod" if text_at(&tokens, at + 2) == "{" => {
                    inline.push((text_at(&tokens, at + 1).to_owned(), depth + 1));
                }
                _ => {}
            }
            let within: Vec<String> =
                module.0.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
            let begins = is_word(&token.text) && (at == 0 || text_at(&tokens, at - 1) != "::");
            if begins && (text_at(&tokens, at + 1) == "::" || token.text == "use") {
                let start = if token.text == "use" { at + 1 } else { at };
                at = tree(&tokens, start, &[], &within, &mut paths);
            } else {
                at += 1;
            }
        }
        Self { module, paths }
    }

    /// The library's modules that the code names, with the line.
    pub(super) fn library_uses(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        self.paths.iter().filter_map(|path| match path.segments.as_slice() {
            [root, module, ..] if root == "crate" => Some((module.clone(), path.line)),
            _ => None,
        })
    }
}

/// Reads one path or `use` tree from `at` on; gives the place behind it.
fn tree(
    tokens: &[Token],
    mut at: usize,
    before: &[String],
    within: &[String],
    paths: &mut Vec<CodePath>,
) -> usize {
    let mut segments = before.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while is_word(text_at(tokens, at)) || text_at(tokens, at) == "::" {
        if text_at(tokens, at) != "::" {
            segments.push(text_at(tokens, at).to_owned());
            if text_at(tokens, at + 1) != "::" {
                at += 1;
                break;
            }
        }
        at += 1;
    }
    if text_at(tokens, at) == "{" && text_at(tokens, at.wrapping_sub(1)) == "::"
        || (text_at(tokens, at) == "{" && segments.is_empty())
    {
        at += 1;
        while at < tokens.len() && text_at(tokens, at) != "}" {
            let next = tree(tokens, at, &segments, within, paths);
            at = next.max(at + 1);
        }
        return at + 1;
    }
    paths.push(CodePath { segments: resolved(segments, within), line });
    at
}

/// `super` and `self` at the beginning, as seen from `within`.
fn resolved(segments: Vec<String>, within: &[String]) -> Vec<String> {
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    let from_self = segments.first().is_some_and(|first| first == "self");
    if ups == 0 && !from_self {
        return segments;
    }
    let kept = within.len().saturating_sub(ups);
    let rest = segments.into_iter().skip(ups + usize::from(from_self));
    std::iter::once("crate".to_owned()).chain(within[..kept].iter().cloned()).chain(rest).collect()
}

/// Modules that exist only in tests, declared by the file of `module` as `#[cfg(test)] mod x;`.
pub(super) fn test_modules(module: &Module, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let starts = test_items(&tokens);
    let names = starts.into_iter().filter_map(|(_, item)| {
        let at = (item..item + 6).find(|at| text_at(&tokens, *at) == "mod")?;
        (text_at(&tokens, at + 2) == ";").then(|| {
            let path: Vec<&str> =
                module.0.iter().map(String::as_str).chain([text_at(&tokens, at + 1)]).collect();
            path.join("::")
        })
    });
    names.collect()
}

/// The line of the first code behind `mod tests`, if there is any.
pub(super) fn behind_tests(text: &str) -> Option<usize> {
    let tokens = tokens(text);
    let at =
        (0..tokens.len()).find(|at| text_at(&tokens, *at) == "mod" && text_at(&tokens, at + 1) == "tests")?;
    tokens.get(end_of_item(&tokens, at)).map(|token| token.line)
}

/// Places of `#[cfg(test)]` and of the item behind it.
fn test_items(tokens: &[Token]) -> Vec<(usize, usize)> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let is_attribute =
        |at: &usize| (0..).zip(ATTRIBUTE).all(|(offset, text)| text_at(tokens, at + offset) == text);
    (0..tokens.len()).filter(is_attribute).map(|at| (at, at + ATTRIBUTE.len())).collect()
}

/// Without the `mod`s that exist only in tests. Other test-only items stay: they are part of the module.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    let items = test_items(tokens);
    while at < tokens.len() {
        let module = items.iter().find(|(start, item)| *start == at && text_at(tokens, *item) == "mod");
        match module {
            Some((_, item)) => at = end_of_item(tokens, *item),
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The place behind an item that ends in `;` or in a block.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for at in start..tokens.len() {
        match text_at(tokens, at) {
            ";" if depth == 0 => return at + 1,
            "{" => depth += 1,
            "}" if depth == 1 => return at + 1,
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    tokens.len()
}

/// A word, `::` or a single character of code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The code without comments, texts and characters.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let len = skipped(rest).unwrap_or_else(|| {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let len = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: rest[..len].to_owned(), line });
            }
            len
        });
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    tokens
}

/// The length of a comment, text or character that `rest` begins with.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let literal = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - literal.len();
    if let Some(raw) = literal.strip_prefix('r').filter(|_| prefix <= 1) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = prefix + 1 + hashes + 1;
            return Some(rest[inside..].find(&end).map_or(rest.len(), |at| inside + at + end.len()));
        }
    }
    if prefix <= 1 && literal.starts_with('"') {
        return Some(prefix + quoted(literal, '"'));
    }
    let is_character = literal.starts_with('\'') && {
        let mut after = literal.chars().skip(1);
        after.next() == Some('\\') || after.next() == Some('\'')
    };
    (prefix <= 1 && is_character).then(|| prefix + quoted(literal, '\''))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_texts_are_not_code() {
        assert_eq!(words("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(
            words(r####"x("a\"b", r#"c"d"#, b"e", br"f", 'g', '\'', b'h', "i")"####),
            ["x", "(", ",", ",", ",", ",", ",", ",", ",", ")"]
        );
        assert_eq!(words("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(words("r#type::bar"), ["r", "#", "type", "::", "bar"]);
        assert_eq!(words("crate::x"), ["crate", "::", "x"]);
    }

    #[test]
    fn use_groups_are_taken_apart() {
        let source = Source::parse(
            Module(vec!["a".into(), "b".into()]),
            "use crate::{c::{self, D}, e as f, g::*};\nuse super::h;\nuse self::i;",
        );
        let paths: Vec<String> = source.paths.iter().map(|path| path.segments.join("::")).collect();
        for expected in
            ["crate::c::self", "crate::c::D", "crate::e", "crate::g", "crate::a::h", "crate::a::b::i"]
        {
            assert!(paths.iter().any(|path| path == expected), "{expected} is not in {paths:?}");
        }
    }
}
