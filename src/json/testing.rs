//! Random JSON documents for property tests, each in two spellings.

use proptest::prelude::*;

/// One document, spelled twice: other order of members, other space, other escapes.
#[derive(Clone, Debug)]
pub(crate) struct Doc {
    pub(crate) text: String,
    pub(crate) respelled: String,
}

#[derive(Clone, Debug)]
enum Node {
    Array(Vec<Self>),
    /// Keys are made different by their position.
    Object(Vec<(String, Self)>),
    String(String),
    Word(&'static str),
    Number(String),
}

fn nodes() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["true", "false", "null"]).prop_map(Node::Word),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?".prop_map(Node::Number),
        any::<String>().prop_map(Node::String),
        "[a-z\\n\\t\"\\\\/ é😀\u{0}-\u{1f}]{0,80}".prop_map(Node::String),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Node::Array),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(Node::Object),
        ]
    })
}

/// Documents whose root is an object without duplicate keys.
pub(crate) fn documents() -> impl Strategy<Value = Doc> {
    (prop::collection::vec(("[a-zé\\n\"\\\\]{0,6}", nodes()), 0..8), any::<u64>(), any::<u64>()).prop_map(
        |(members, one, other)| {
            let root = Node::Object(members);
            let spell = |seed: u64, reversed: bool| {
                let mut writer = Speller { out: String::new(), dice: seed | 1, reversed };
                writer.node(&root);
                writer.out
            };
            Doc { text: spell(one, false), respelled: spell(other, true) }
        },
    )
}

struct Speller {
    out: String,
    dice: u64,
    reversed: bool,
}

impl Speller {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn space(&mut self) {
        for _ in 0..self.roll(3) {
            let index = usize::try_from(self.roll(4)).unwrap();
            self.out.push([' ', '\n', '\t', '\r'][index]);
        }
    }

    fn node(&mut self, node: &Node) {
        self.space();
        match node {
            Node::Array(elements) => {
                self.out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        self.out.push(',');
                    }
                    self.node(element);
                }
                self.out.push(']');
            }
            Node::Object(members) => self.object(members),
            Node::String(text) => self.string(text),
            Node::Word(word) => self.out.push_str(word),
            Node::Number(number) => self.out.push_str(number),
        }
        self.space();
    }

    fn object(&mut self, members: &[(String, Node)]) {
        let mut order: Vec<usize> = (0..members.len()).collect();
        if self.reversed {
            order.reverse();
        }
        self.out.push('{');
        for (written, at) in order.into_iter().enumerate() {
            if written > 0 {
                self.out.push(',');
            }
            let (key, value) = &members[at];
            self.space();
            self.string(&format!("{key}{at}"));
            self.space();
            self.out.push(':');
            self.node(value);
        }
        self.out.push('}');
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            let must = character < ' ' || matches!(character, '"' | '\\');
            match (character, self.roll(8)) {
                ('"' | '\\' | '/', 0..=3) => self.out.extend(['\\', character]),
                ('\n', 0..=3) => self.out.push_str("\\n"),
                ('\t', 0..=3) => self.out.push_str("\\t"),
                ('\r', 0..=3) => self.out.push_str("\\r"),
                ('\u{8}', 0..=3) => self.out.push_str("\\b"),
                ('\u{c}', 0..=3) => self.out.push_str("\\f"),
                (_, roll) if must || roll == 7 => self.escape_units(character),
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    fn escape_units(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            let upper = self.roll(2) == 0;
            let escaped = if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
            self.out.push_str(&escaped);
        }
    }
}
