// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device-tree overlays: changes to a tree, in a blob of their own, as `dtc` compiles them from a
//! source with `/plugin/`.
//!
//! The format is that of dtc's Documentation/dt-object-internal.txt; the outcome is that of
//! libfdt's `fdt_overlay_apply`, with three differences:
//!
//! * a root child that is no fragment, or a fragment without `__overlay__`, is an error: what
//!   somebody wrote must not be passed over in silence;
//! * a phandle that a node has already is not replaced, because others refer to it;
//! * labels of the overlay do not go into `/__symbols__`: no second overlay comes after it.
//!
//! dtoolkit can apply overlays too. It is not used for that, because its errors do not say which
//! fragment is wrong, it passes over what the first two points name, and it keeps the path of
//! every phandle, which has no useful bound.

use super::blob::{Blob, MAX_DEPTH};
use super::patch::{PatchError, duplicate, finish};
use super::{node, read};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

const CONTENTS: &str = "__overlay__";
const SYMBOLS: &str = "__symbols__";
const FIXUPS: &str = "__fixups__";
const LOCAL_FIXUPS: &str = "__local_fixups__";

/// A tree with an overlay applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The tree: version 17, a multiple of 8 bytes long, without NOPs.
    pub blob: Vec<u8>,
    /// How many fragments the overlay has.
    pub fragments: usize,
}

/// Why an overlay cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayError {
    /// The tree that it is for is malformed.
    Base(PatchError),
    /// The overlay's blob is malformed.
    Overlay(PatchError),
    /// It has no fragment: it is a device tree, but no overlay.
    NoFragments,
    /// A child of its root is no fragment.
    NotAFragment(String),
    /// A fragment is wrong.
    Fragment {
        /// Name of the fragment.
        fragment: String,
        /// What is wrong.
        fault: Fault,
    },
    /// The tree would be malformed or too big.
    Outcome(PatchError),
    /// The heap may be too small for it.
    Heap {
        /// Bytes that it may take.
        needed: usize,
        /// Bytes that are free.
        free: usize,
    },
}

/// What is wrong with a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has no `__overlay__`.
    NoContents,
    /// It has not exactly one of `target` (4 bytes) and `target-path` (a string).
    Target,
    /// Its `target-path` is no node.
    NoSuchPath(String),
    /// Its `target` is no node's phandle.
    NoSuchPhandle(u32),
    /// It refers to a label that the tree has not.
    NoSuchLabel(String),
    /// It refers to a label whose node is not there or has no phandle.
    LabelWithoutPhandle(String),
    /// An entry of `__fixups__` names no cell of the overlay.
    Fixup {
        /// The label.
        label: String,
        /// The entry, which is `path:property:offset`.
        entry: String,
    },
    /// An entry of `__local_fixups__` names no cell of the overlay.
    LocalFixup {
        /// Path of the node in the overlay.
        node: String,
        /// Name of the property; that of a child if it is the child that is not there.
        name: String,
    },
    /// With it nodes would be nested more than [`MAX_DEPTH`] deep.
    Depth,
    /// With it the tree would have phandles past the last one.
    Phandles,
    /// It gives a phandle to a node that has one.
    PhandleTaken {
        /// Path of the node.
        node: String,
        /// The phandle that it has.
        phandle: u32,
    },
}

impl fmt::Display for OverlayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base(error) => write!(f, "the loader's tree: {error}"),
            Self::Overlay(error) => write!(f, "its blob: {error}"),
            Self::NoFragments => write!(f, "it has no fragment; is /plugin/ in its source?"),
            Self::NotAFragment(name) => {
                write!(f, "/{name} is no fragment; is /plugin/ in its source?")
            }
            Self::Fragment { fragment, fault } => {
                write!(f, "{}: {fault}", fragment.escape_debug())
            }
            Self::Outcome(error) => write!(f, "with it, the tree is malformed: {error}"),
            Self::Heap { needed, free } => write!(
                f,
                "it may need {} KiB of heap, {} KiB are free: build the shim with a larger arena \
                 (el2/heap.rs)",
                needed >> 10,
                free >> 10
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoContents => write!(f, "{CONTENTS} is missing"),
            Self::Target => write!(f, "exactly one of target and target-path must be there"),
            // Values, unlike names, may hold what does something to a terminal.
            Self::NoSuchPath(path) => {
                write!(f, "target-path {} is no node of the tree", path.escape_debug())
            }
            Self::NoSuchPhandle(phandle) => {
                write!(f, "target {phandle:#x} is no node's phandle")
            }
            Self::NoSuchLabel(label) => write!(
                f,
                "label {label} is not in the tree's /{SYMBOLS}; build the tree with dtc -@, or use \
                 a path: &{{/path}}"
            ),
            Self::LabelWithoutPhandle(label) => {
                write!(f, "label {label} is of no node with a phandle")
            }
            Self::Fixup { label, entry } => {
                let entry = entry.escape_debug();
                write!(f, "label {label}: {FIXUPS} entry '{entry}' names no cell of the overlay")
            }
            Self::LocalFixup { node, name } => {
                write!(f, "{LOCAL_FIXUPS}: {node}: {name} is not there or too short")
            }
            Self::Depth => write!(f, "with it, nodes are more than {MAX_DEPTH} deep"),
            Self::Phandles => write!(f, "its phandles do not fit above those of the tree"),
            Self::PhandleTaken { node, phandle } => write!(
                f,
                "{node} has phandle {phandle:#x} already; refer to it by that number instead of a \
                 label"
            ),
        }
    }
}

impl core::error::Error for OverlayError {}

/// Bytes of heap that are enough for [`apply`], its result included: an upper bound.
pub fn heap_needed(base: &Blob<'_>, overlay: &Blob<'_>) -> usize {
    // The overlay is there as a model, and once more where it has been merged. Both are bounded
    // by MAX_ITEMS and MAX_SIZE, so that nothing overflows.
    base.heap_needed() + 2 * overlay.heap_needed()
}

/// Applies the overlay in `overlay` to the tree in `base`, fragment by fragment: properties of
/// `__overlay__` replace those of the target, children are merged or added. `free` is how much
/// heap there is.
///
/// # Errors
///
/// An [`OverlayError`]; there is no tree then. [`OverlayError::Heap`] also where the heap would
/// be too small to go on with the tree.
pub fn apply(base: &[u8], overlay: &[u8], free: usize) -> Result<Applied, OverlayError> {
    let invalid_base = |error| OverlayError::Base(PatchError::Tree(error));
    let invalid_overlay = |error| OverlayError::Overlay(PatchError::Tree(error));
    let base = Blob::check(base).map_err(invalid_base)?;
    let overlay = Blob::check(overlay).map_err(invalid_overlay)?;
    enough(heap_needed(&base, &overlay), free)?;
    let boot_cpu = base.boot_cpu();
    let mut base = model(&base).map_err(OverlayError::Base)?;
    let mut overlay = model(&overlay).map_err(OverlayError::Overlay)?;

    let fragments = fragments(&overlay.root)?;
    renumber(&mut overlay.root, highest_phandle(&base.root))?;
    fix_up(&mut overlay.root, &base.root)?;
    for name in &fragments {
        if let Some(fragment) = overlay.root.child(name) {
            merge_fragment(&mut base.root, fragment)
                .map_err(|fault| OverlayError::Fragment { fragment: name.clone(), fault })?;
        }
    }
    drop(overlay);
    let blob = finish(&base, boot_cpu).map_err(OverlayError::Outcome)?;
    let outcome = Blob::check(&blob).map_err(|error| OverlayError::Outcome(error.into()))?;
    enough(blob.len() + outcome.heap_needed(), free)?;
    Ok(Applied { blob, fragments: fragments.len() })
}

fn enough(needed: usize, free: usize) -> Result<(), OverlayError> {
    if needed <= free { Ok(()) } else { Err(OverlayError::Heap { needed, free }) }
}

/// Reads a checked blob into a model, which keeps one of each name.
fn model(blob: &Blob<'_>) -> Result<DeviceTree, PatchError> {
    let compact = blob.compact();
    let fdt = read::open(&compact)?;
    if let Some((node, name)) = duplicate(read::root(&fdt)?, "/") {
        return Err(PatchError::Duplicate { node, name });
    }
    Ok(DeviceTree::from_fdt(&dtoolkit::fdt::Fdt::new_unchecked(&compact)))
}

/// The names of the fragments, in order.
fn fragments(overlay: &DeviceTreeNode) -> Result<Vec<String>, OverlayError> {
    let mut names = Vec::new();
    for child in overlay.children() {
        match child.name_without_address() {
            SYMBOLS | FIXUPS | LOCAL_FIXUPS => {}
            "fragment" => names.push(child.name().to_string()),
            _ => return Err(OverlayError::NotAFragment(child.name().to_string())),
        }
    }
    if names.is_empty() { Err(OverlayError::NoFragments) } else { Ok(names) }
}

/// The property of this name. (The trait's method on a reference lends for too short.)
fn property<'t>(node: &'t DeviceTreeNode, name: &str) -> Option<&'t DeviceTreeProperty> {
    <DeviceTreeNode as Node>::property(node, name)
}

/// Names of the property that holds a node's phandle, the second one of old.
const PHANDLE: [&str; 2] = ["phandle", "linux,phandle"];

/// The node's phandle. 0 and all ones are none (section 2.3.3).
fn phandle(node: &DeviceTreeNode) -> Option<u32> {
    let found = PHANDLE.iter().find_map(|name| property(node, name))?;
    let value = u32::from_be_bytes(found.value().try_into().ok()?);
    Some(value).filter(|value| !matches!(*value, 0 | u32::MAX))
}

/// The highest phandle from here on, 0 if there is none.
fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let below = node.children().map(highest_phandle).max().unwrap_or(0);
    phandle(node).unwrap_or(0).max(below)
}

/// Moves the overlay's own phandles, and what refers to them, past `highest`.
fn renumber(overlay: &mut DeviceTreeNode, highest: u32) -> Result<(), OverlayError> {
    let local = overlay.remove_child(LOCAL_FIXUPS);
    for child in overlay.children_mut().filter(|child| !child.name().starts_with("__")) {
        let fragment = || child.name().to_string();
        let name = fragment();
        move_phandles(child, highest)
            .ok_or(OverlayError::Fragment { fragment: name, fault: Fault::Phandles })?;
    }
    let Some(local) = local else { return Ok(()) };
    for fixups in local.children() {
        let name = fixups.name();
        let fail = |fault| OverlayError::Fragment { fragment: name.to_string(), fault };
        let missing = || Fault::LocalFixup { node: "/".to_string(), name: name.to_string() };
        let child = overlay.child_mut(name).ok_or_else(|| fail(missing()))?;
        move_references(child, fixups, &format!("/{name}"), highest).map_err(fail)?;
    }
    Ok(())
}

/// Adds `offset` to the phandle of each node from here on; `None` where one gets too large.
fn move_phandles(node: &mut DeviceTreeNode, offset: u32) -> Option<()> {
    if let Some(old) = phandle(node) {
        let new = old.checked_add(offset).filter(|new| *new != u32::MAX)?;
        for name in PHANDLE {
            if let Some(property) = node.property_mut(name) {
                property.set_value(new.to_be_bytes());
            }
        }
    }
    node.children_mut().try_for_each(|child| move_phandles(child, offset))
}

/// Adds `offset` to the cells of `node`, whose path is `path`, that `fixups` lists: each of its
/// properties holds offsets into the node's property of that name.
fn move_references(
    node: &mut DeviceTreeNode,
    fixups: &DeviceTreeNode,
    path: &str,
    offset: u32,
) -> Result<(), Fault> {
    let fault = |name: &str| Fault::LocalFixup { node: path.to_string(), name: name.to_string() };
    for fixup in fixups.properties() {
        let places = fixup.value().chunks(4);
        for place in places {
            let place = place.try_into().map_err(|_| fault(fixup.name()))?;
            let place = u32::from_be_bytes(place) as usize;
            let moved = change_cell(node, fixup.name(), place, |old| old.checked_add(offset));
            moved.ok_or_else(|| fault(fixup.name()))?;
        }
    }
    for fixup in fixups.children() {
        let child = node.child_mut(fixup.name()).ok_or_else(|| fault(fixup.name()))?;
        move_references(child, fixup, &format!("{path}/{}", fixup.name()), offset)?;
    }
    Ok(())
}

/// Changes the cell at byte `place` of a property. `None` where there is no such cell, or
/// `change` says so.
fn change_cell(
    node: &mut DeviceTreeNode,
    property: &str,
    place: usize,
    change: impl FnOnce(u32) -> Option<u32>,
) -> Option<()> {
    let property = node.property_mut(property)?;
    let mut value = (&*property).value().to_vec();
    let cell = value.get_mut(place..place.checked_add(4)?)?;
    let new = change(u32::from_be_bytes((&*cell).try_into().ok()?))?;
    cell.copy_from_slice(&new.to_be_bytes());
    property.set_value(value);
    Some(())
}

/// Fills in the phandles of the base's labels that the overlay refers to. Each property of
/// `__fixups__` is a label, its strings say where it is referred to.
fn fix_up(overlay: &mut DeviceTreeNode, base: &DeviceTreeNode) -> Result<(), OverlayError> {
    let Some(fixups) = overlay.remove_child(FIXUPS) else { return Ok(()) };
    for fixup in fixups.properties() {
        let label = fixup.name();
        let list = fixup.value();
        let list = list.strip_suffix(b"\0").unwrap_or(list);
        for entry in list.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry).into_owned();
            fix_up_one(overlay, base, label, &entry).map_err(|fault| {
                let fragment = entry.split(['/', ':']).find(|part| !part.is_empty());
                OverlayError::Fragment { fragment: fragment.unwrap_or(FIXUPS).to_string(), fault }
            })?;
        }
    }
    Ok(())
}

/// Fills in the phandle of one label at one place, an `entry` of the form
/// `path:property:offset`.
fn fix_up_one(
    overlay: &mut DeviceTreeNode,
    base: &DeviceTreeNode,
    label: &str,
    entry: &str,
) -> Result<(), Fault> {
    let symbol = base.child(SYMBOLS).and_then(|symbols| property(symbols, label));
    let symbol = symbol.ok_or_else(|| Fault::NoSuchLabel(label.to_string()))?;
    let labelled = node::text(symbol.value()).and_then(|path| full_path(base, path));
    let labelled = labelled.and_then(|path| phandle(find(base, &path)?));
    let labelled = labelled.ok_or_else(|| Fault::LabelWithoutPhandle(label.to_string()))?;

    let mut parts = entry.split(':');
    let mut place = || {
        let (path, property, offset) = (parts.next()?, parts.next()?, parts.next()?);
        let path = full_path(overlay, path).filter(|_| parts.next().is_none())?;
        let node = find_mut(overlay, &path)?;
        change_cell(node, property, offset.parse().ok()?, |_| Some(labelled))
    };
    let fault = || Fault::Fixup { label: label.to_string(), entry: entry.to_string() };
    place().ok_or_else(fault)
}

/// Merges one fragment into the tree.
fn merge_fragment(base: &mut DeviceTreeNode, fragment: &DeviceTreeNode) -> Result<(), Fault> {
    let contents = fragment.child(CONTENTS).ok_or(Fault::NoContents)?;
    let path = match (property(fragment, "target"), property(fragment, "target-path")) {
        (Some(target), None) => {
            let target = u32::from_be_bytes(target.value().try_into().map_err(|_| Fault::Target)?);
            path_of(base, target, "").ok_or(Fault::NoSuchPhandle(target))?
        }
        (None, Some(path)) => {
            let path = node::text(path.value()).ok_or(Fault::Target)?;
            full_path(base, path).ok_or_else(|| Fault::NoSuchPath(path.to_string()))?
        }
        _ => return Err(Fault::Target),
    };
    // Who walks the tree next has a stack for so many levels, and does it before the outcome can be
    // checked.
    let above = path.split('/').filter(|part| !part.is_empty()).count();
    if above + height(contents) > MAX_DEPTH {
        return Err(Fault::Depth);
    }
    match find_mut(base, &path) {
        Some(target) => merge(target, contents, &path),
        None => Err(Fault::NoSuchPath(path)),
    }
}

/// Levels of nodes from this one down, its own included.
fn height(node: &DeviceTreeNode) -> usize {
    1 + node.children().map(height).max().unwrap_or(0)
}

/// Merges `from` into `target`, whose path is `path`.
fn merge(target: &mut DeviceTreeNode, from: &DeviceTreeNode, path: &str) -> Result<(), Fault> {
    if let (Some(known), Some(_)) = (phandle(target), phandle(from)) {
        return Err(Fault::PhandleTaken { node: shown(path), phandle: known });
    }
    for property in from.properties() {
        target.add_property(property.clone());
    }
    for child in from.children() {
        let known = named(target, child.name()).map(|known| known.name().to_string());
        match known.and_then(|name| target.child_mut(&name)) {
            Some(known) => {
                let path = format!("{path}/{}", known.name());
                merge(known, child, &path)?;
            }
            None => target.add_child(child.clone()),
        }
    }
    Ok(())
}

/// The child of this name, whose unit address may be left out (section 2.2.3).
fn named<'t>(parent: &'t DeviceTreeNode, name: &str) -> Option<&'t DeviceTreeNode> {
    let exact = parent.children().find(|child| child.name() == name);
    exact.or_else(|| parent.child(name))
}

/// The path, with all unit addresses, of the node at `path`, which may leave them out; "" is
/// the root. `None` where there is no such node, or the path is not absolute.
fn full_path(root: &DeviceTreeNode, path: &str) -> Option<String> {
    let mut node = root;
    let mut full = String::new();
    for part in path.strip_prefix('/')?.split('/').filter(|part| !part.is_empty()) {
        node = named(node, part)?;
        full.push('/');
        full.push_str(node.name());
    }
    Some(full)
}

/// The full path of the node of this phandle, from `node` on, whose path is `path`.
fn path_of(node: &DeviceTreeNode, wanted: u32, path: &str) -> Option<String> {
    if phandle(node) == Some(wanted) {
        return Some(path.to_string());
    }
    node.children().find_map(|child| path_of(child, wanted, &format!("{path}/{}", child.name())))
}

/// A full path as it is written, where the root is not nothing.
fn shown(path: &str) -> String {
    if path.is_empty() { "/".to_string() } else { path.to_string() }
}

/// The node at a full path.
fn find<'t>(root: &'t DeviceTreeNode, path: &str) -> Option<&'t DeviceTreeNode> {
    path.split('/').filter(|part| !part.is_empty()).try_fold(root, named)
}

/// The node at a full path, to change.
fn find_mut<'t>(root: &'t mut DeviceTreeNode, path: &str) -> Option<&'t mut DeviceTreeNode> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    parts.try_fold(root, |node, part| node.child_mut(part))
}
