//! The inside of JSON strings: looking for what ends a plain run, decoding escapes, and writing a string
//! the one canonical way.

use std::borrow::Cow;

use super::tape::Escapes;

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Marks the lowest byte of `word` that is zero (and perhaps some above it) in its high bit.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Where the first quote, backslash or control character is.
pub(super) fn first_special(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut rest = bytes;
    while let Some((eight, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*eight);
        let quotes = zero_bytes(word ^ (ONES * b'"' as u64));
        let backslashes = zero_bytes(word ^ (ONES * b'\\' as u64));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = quotes | backslashes | controls;
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
        rest = after;
    }
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).map(|found| at + found)
}

/// Where the first control character is. Looks at whole blocks first, which the compiler vectorises.
pub(super) fn first_control(bytes: &[u8]) -> Option<usize> {
    let clean = bytes.chunks(64).all(|block| !block.iter().fold(false, |bad, byte| bad | (*byte < 0x20)));
    if clean { None } else { bytes.iter().position(|byte| *byte < 0x20) }
}

/// One escape or run of plain bytes of a string's inside.
enum Piece<'a> {
    /// A surrogate without its other half: no character, and must not be taken for another one.
    Lone(u16),
    Character(char),
    Plain(&'a [u8]),
}

/// Takes the inside of a string apart. It was checked by the parser; anything else ends the walk.
struct Pieces<'a>(&'a [u8]);

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let stop = memchr::memchr(b'\\', self.0).unwrap_or(self.0.len());
        if stop > 0 {
            let (plain, rest) = self.0.split_at_checked(stop)?;
            self.0 = rest;
            return Some(Piece::Plain(plain));
        }
        let [b'\\', kind, rest @ ..] = self.0 else { return None };
        self.0 = rest;
        let character = match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            other => char::from(*other),
        };
        Some(Piece::Character(character))
    }
}

impl<'a> Pieces<'a> {
    fn unicode(&mut self) -> Option<Piece<'a>> {
        let (unit, rest) = code_unit(self.0)?;
        self.0 = rest;
        if !(0xd800..0xe000).contains(&unit) {
            return char::from_u32(u32::from(unit)).map(Piece::Character);
        }
        if let [b'\\', b'u', digits @ ..] = self.0
            && let Some((low, after)) = code_unit(digits)
            && let Some(Ok(character)) = char::decode_utf16([unit, low]).next()
        {
            self.0 = after;
            return Some(Piece::Character(character));
        }
        Some(Piece::Lone(unit))
    }
}

fn code_unit(digits: &[u8]) -> Option<(u16, &[u8])> {
    let (hex, rest) = digits.split_at_checked(4)?;
    let unit = u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
    Some((unit, rest))
}

/// The string that the inside of a JSON string stands for. A lone surrogate becomes the three bytes
/// UTF-8 would use for it, so that no two different strings decode alike and bytes sort by code point.
pub(super) fn decode(inside: &[u8], escapes: Escapes) -> Cow<'_, [u8]> {
    if escapes == Escapes::None {
        return Cow::Borrowed(inside);
    }
    let mut out = Vec::with_capacity(inside.len());
    for piece in Pieces(inside) {
        match piece {
            Piece::Plain(bytes) => out.extend_from_slice(bytes),
            Piece::Character(character) => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Piece::Lone(unit) => out.extend_from_slice(&[
                0xe0 | low_byte(unit >> 12),
                0x80 | (low_byte(unit >> 6) & 0x3f),
                0x80 | (low_byte(unit) & 0x3f),
            ]),
        }
    }
    Cow::Owned(out)
}

fn low_byte(unit: u16) -> u8 {
    unit.to_le_bytes()[0]
}

/// Appends the canonical spelling of a string's inside: everything literal but `"`, `\` and control
/// characters, those by their short escape where there is one, else by `\u00xx` in lower case.
pub(super) fn write_canonical(inside: &[u8], out: &mut Vec<u8>) {
    for piece in Pieces(inside) {
        match piece {
            Piece::Plain(bytes) => out.extend_from_slice(bytes),
            Piece::Lone(unit) => out.extend_from_slice(format!("\\u{unit:04x}").as_bytes()),
            Piece::Character(character) => write_character(character, out),
        }
    }
}

/// Appends the canonical spelling of one character of a string.
pub(super) fn write_character(character: char, out: &mut Vec<u8>) {
    let short = match character {
        '"' | '\\' => Some(character),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        _ => None,
    };
    match short {
        Some(short) => out.extend_from_slice(format!("\\{short}").as_bytes()),
        None if character < ' ' => {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
        }
        None => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}
