//! Topic patterns as a tree of words. Pure.
//!
//! Keeps: a look costs what its words and the patterns beside them cost, not the number of
//! bindings; many `#` in one pattern cost words × nodes and never more.
//! In: `Router`.
//!
//! ```text
//! a.*.c  a.#     root ─a─► 1 ─*─► 2 ─c─► 3
//!                            └#─► 4 (stays for every further word)
//! ```

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::target::{Found, Target, Targets};

/// No child: the root is nobody's.
const NONE: u32 = 0;
const ROOT: u32 = 0;

#[derive(Default)]
struct Node {
    words: HashMap<Box<[u8]>, u32, RandomState>,
    star: u32,
    hash: u32,
    /// Reached by `#`: any further word stays here.
    stays: bool,
    targets: Targets,
}

impl Node {
    fn is_bare(&self) -> bool {
        self.star == NONE && self.hash == NONE && self.words.is_empty() && self.targets.is_empty()
    }

    fn child(&self, word: &[u8]) -> u32 {
        match word {
            b"*" => self.star,
            b"#" => self.hash,
            word => self.words.get(word).copied().unwrap_or(NONE),
        }
    }
}

pub(super) struct Trie {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
        }
    }
}

impl Trie {
    pub(super) fn add(&mut self, pattern: &[u8], target: &Target) {
        let mut at = ROOT;
        for word in words(pattern) {
            let child = self.node(at).child(word);
            at = if child == NONE {
                self.grow(at, word)
            } else {
                child
            };
        }
        self.nodes[at as usize].targets.add(target);
    }

    pub(super) fn remove(&mut self, pattern: &[u8], target: &Target) {
        let mut path = Vec::new();
        let mut at = ROOT;
        for word in words(pattern) {
            path.push((at, word));
            at = self.node(at).child(word);
            if at == NONE {
                return;
            }
        }
        self.nodes[at as usize].targets.remove(target);
        while let Some((parent, word)) = path.pop() {
            if !self.node(at).is_bare() {
                return;
            }
            self.cut(parent, word, at);
            at = parent;
        }
    }

    /// Destinations whose pattern matches the key.
    pub(super) fn find(&self, key: &[u8], found: &mut Found) {
        let (mut here, mut next) = (Vec::new(), Vec::new());
        self.enter(ROOT, &mut here);
        for word in words(key) {
            for &at in &here {
                let node = self.node(at);
                if node.stays {
                    next.push(at);
                }
                if let Some(&child) = node.words.get(word) {
                    self.enter(child, &mut next);
                }
                if node.star != NONE {
                    self.enter(node.star, &mut next);
                }
            }
            here.clear();
            std::mem::swap(&mut here, &mut next);
            // Ways that meet again go on as one.
            if here.len() > 1 {
                here.sort_unstable();
                here.dedup();
            }
            if here.is_empty() {
                return;
            }
        }
        for at in here {
            self.node(at).targets.find(found);
        }
    }

    /// A node, and those behind it that no word leads to.
    fn enter(&self, mut at: u32, here: &mut Vec<u32>) {
        loop {
            here.push(at);
            match self.node(at).hash {
                NONE => return,
                hash => at = hash,
            }
        }
    }

    fn grow(&mut self, parent: u32, word: &[u8]) -> u32 {
        let node = Node {
            stays: word == b"#",
            ..Node::default()
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let parent = &mut self.nodes[parent as usize];
        match word {
            b"*" => parent.star = at,
            b"#" => parent.hash = at,
            word => {
                parent.words.insert(word.into(), at);
            }
        }
        at
    }

    fn cut(&mut self, parent: u32, word: &[u8], at: u32) {
        let parent = &mut self.nodes[parent as usize];
        match word {
            b"*" => parent.star = NONE,
            b"#" => parent.hash = NONE,
            word => {
                parent.words.remove(word);
            }
        }
        self.nodes[at as usize] = Node::default();
        self.free.push(at);
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }
}

/// Words between dots, which may be empty; an empty text has none.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let some = !text.is_empty();
    text.split(|&byte| byte == b'.').filter(move |_| some)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::model::QueueId;

    /// The rule word for word: `*` is one word, `#` zero or more.
    fn matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&b"#", rest)) => (0..=key.len()).any(|skip| matches(rest, &key[skip..])),
            Some((word, rest)) => key
                .split_first()
                .is_some_and(|(first, key)| (*word == b"*" || word == first) && matches(rest, key)),
        }
    }

    fn naive(pattern: &str, key: &str) -> bool {
        let pattern: Vec<&[u8]> = words(pattern.as_bytes()).collect();
        let key: Vec<&[u8]> = words(key.as_bytes()).collect();
        matches(&pattern, &key)
    }

    fn found(trie: &Trie, key: &str) -> Vec<QueueId> {
        let mut found = Found::default();
        trie.find(key.as_bytes(), &mut found);
        found.queues.sort_unstable();
        found.queues.dedup();
        found.queues
    }

    #[test]
    fn words_of_a_topic() {
        for (pattern, key, expected) in [
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("*", "", false),
            ("#.b.#", "a.b.c", true),
            ("*.*", "a.", true),
            ("a.#.#.d", "a.d", true),
            ("a.b", "a.b.c", false),
            ("", "", true),
            ("", ".", false),
        ] {
            let mut trie = Trie::default();
            trie.add(pattern.as_bytes(), &Target::Queue(QueueId(1)));
            assert_eq!(!found(&trie, key).is_empty(), expected, "{pattern} {key}");
            assert_eq!(naive(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn many_hashes_cost_little() {
        let mut trie = Trie::default();
        let pattern = "#.a.".repeat(40) + "b";
        trie.add(pattern.as_bytes(), &Target::Queue(QueueId(1)));
        let key = "a.".repeat(120) + "c";
        assert!(found(&trie, &key).is_empty());
    }

    fn text(words: &'static str) -> impl Strategy<Value = String> {
        let word = proptest::sample::select(words.split(',').collect::<Vec<_>>());
        vec(word, 0..6).prop_map(|words| words.join("."))
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_the_rule_finds(
            patterns in vec((text("a,b,*,#,#,"), 0u64..6), 0..24),
            gone in vec(any::<prop::sample::Index>(), 0..12),
            keys in vec(text("a,b,c,"), 1..12),
        ) {
            let mut trie = Trie::default();
            let target = |queue: u64| Target::Queue(QueueId(queue));
            for (pattern, queue) in &patterns {
                trie.add(pattern.as_bytes(), &target(*queue));
            }
            let mut left = patterns;
            for index in gone {
                if !left.is_empty() {
                    let (pattern, queue) = left.swap_remove(index.index(left.len()));
                    trie.remove(pattern.as_bytes(), &target(queue));
                }
            }
            for key in keys {
                let mut expected: Vec<QueueId> = left
                    .iter()
                    .filter(|(pattern, _)| naive(pattern, &key))
                    .map(|(_, queue)| QueueId(*queue))
                    .collect();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(found(&trie, &key), expected, "{}", key);
            }
            for (pattern, queue) in left {
                trie.remove(pattern.as_bytes(), &target(queue));
            }
            prop_assert_eq!(trie.free.len() + 1, trie.nodes.len(), "no node is left behind");
        }
    }
}
