// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device tree that can be changed at will, and blobs made of it in many styles.

use std::collections::BTreeMap;
use tagstash::dtb::blob::{Blob, Token, total_size};

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: Vec<u8>,
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
    pub children: Vec<Node>,
}

/// What a blob holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub reservations: Vec<(u64, u64)>,
    pub boot_cpu: u32,
    pub root: Node,
    /// What follows the blob.
    pub rest: Vec<u8>,
}

/// How a blob is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// NOPs before every token.
    pub nops: usize,
    /// Bytes between the blocks and at the end, a multiple of 8.
    pub slack: usize,
    /// The strings come before the structure.
    pub strings_first: bool,
    /// A name that is the end of another is not written again.
    pub tails: bool,
}

impl Node {
    /// An empty node.
    pub fn new(name: &[u8]) -> Node {
        Node { name: name.to_vec(), ..Node::default() }
    }

    /// The value of a property.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.properties.iter().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// Sets a property, new or not.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        match self.properties.iter_mut().find(|(known, _)| known == name.as_bytes()) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.properties.push((name.into(), value.to_vec())),
        }
    }

    /// The name without the unit address.
    pub fn base_name(&self) -> &[u8] {
        self.name.split(|byte| *byte == b'@').next().unwrap_or_default()
    }

    /// The first child whose name is `name`, with or without a unit address.
    pub fn child(&self, name: &str) -> Option<usize> {
        self.children.iter().position(|child| child.base_name() == name.as_bytes())
    }

    /// Number of nodes from here on.
    pub fn count(&self) -> usize {
        1 + self.children.iter().map(Node::count).sum::<usize>()
    }

    /// The node of this number, this one being number 0.
    pub fn nth(&mut self, index: usize) -> Option<&mut Node> {
        let Some(mut left) = index.checked_sub(1) else { return Some(self) };
        for child in &mut self.children {
            let count = child.count();
            if left < count {
                return child.nth(left);
            }
            left -= count;
        }
        None
    }
}

impl Tree {
    /// Reads a blob, and what follows it.
    pub fn parse(bytes: &[u8]) -> Option<Tree> {
        let blob = Blob::check(bytes).ok()?;
        let mut open: Vec<Node> = Vec::new();
        let mut root = None;
        for token in blob.tokens() {
            match token {
                Token::Begin(name) => open.push(Node::new(name.as_bytes())),
                Token::Property { name, value } => {
                    open.last_mut()?.properties.push((name.into(), value.to_vec()));
                }
                Token::End => {
                    let node = open.pop()?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(node),
                        None => root = Some(node),
                    }
                }
            }
        }
        let field = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let mut reservations = Vec::new();
        for entry in bytes.get(field(16)? as usize..)?.chunks_exact(16) {
            let (address, size) = entry.split_at(8);
            let pair = (number(address), number(size));
            if pair == (0, 0) {
                break;
            }
            reservations.push(pair);
        }
        let rest = bytes.get(total_size(bytes).ok()?..)?.to_vec();
        Some(Tree { reservations, boot_cpu: field(28)?, root: root?, rest })
    }

    /// Writes a blob.
    pub fn write(&self, style: Style) -> Vec<u8> {
        let mut writer = Writer { style, ..Writer::default() };
        writer.node(&self.root);
        writer.token(9);
        let mut reservations: Vec<u8> = Vec::new();
        for (address, size) in self.reservations.iter().chain(&[(0, 0)]) {
            reservations.extend(address.to_be_bytes());
            reservations.extend(size.to_be_bytes());
        }
        let (structure, strings) = (writer.structure, writer.strings);
        let mut out = vec![0; 40 + style.slack];
        let place = |block: &[u8], out: &mut Vec<u8>| {
            out.resize(out.len().next_multiple_of(8) + style.slack, 0);
            let at = out.len();
            out.extend(block);
            at
        };
        let reservations_at = place(&reservations, &mut out);
        let (structure_at, strings_at) = match style.strings_first {
            true => {
                let strings_at = place(&strings, &mut out);
                (place(&structure, &mut out), strings_at)
            }
            false => (place(&structure, &mut out), place(&strings, &mut out)),
        };
        out.resize(out.len() + style.slack, 0);
        let header = [
            0xd00d_feed,
            out.len() as u32,
            structure_at as u32,
            strings_at as u32,
            reservations_at as u32,
            17,
            16,
            self.boot_cpu,
            strings.len() as u32,
            structure.len() as u32,
        ];
        for (field, bytes) in header.iter().zip(out.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&field.to_be_bytes());
        }
        out.extend(&self.rest);
        out
    }
}

#[derive(Default)]
struct Writer {
    style: Style,
    structure: Vec<u8>,
    strings: Vec<u8>,
    known: BTreeMap<Vec<u8>, u32>,
}

impl Writer {
    fn token(&mut self, token: u32) {
        for _ in 0..self.style.nops {
            self.structure.extend(4u32.to_be_bytes());
        }
        self.structure.extend(token.to_be_bytes());
    }

    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, node: &Node) {
        self.token(1);
        self.structure.extend(&node.name);
        self.structure.push(0);
        self.pad();
        for (name, value) in &node.properties {
            self.token(3);
            let at = self.string(name);
            self.structure.extend((value.len() as u32).to_be_bytes());
            self.structure.extend(at.to_be_bytes());
            self.structure.extend(value);
            self.pad();
        }
        for child in &node.children {
            self.node(child);
        }
        self.token(2);
    }

    fn string(&mut self, name: &[u8]) -> u32 {
        if let Some(at) = self.known.get(name) {
            return *at;
        }
        let at = self.strings.len() as u32;
        for start in (0..if self.style.tails { name.len() } else { 1 }).rev() {
            self.known.entry(name[start.min(name.len())..].to_vec()).or_insert(at + start as u32);
        }
        self.strings.extend(name);
        self.strings.push(0);
        at
    }
}

/// The big-endian number that the first eight of `bytes` are.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
