// SPDX-License-Identifier: MIT OR Apache-2.0
//! Idle states (Linux's cpu/idle-states and power/domain-idle-state bindings): which there are, and
//! which of them the guest may see.
//!
//! A kernel believes the tree. One that finds a state there whose CPU_SUSPEND is refused asks for it
//! again and again, and its CPU never idles. So the guest's copy has only states that are relayed.

use super::node;
use crate::psci::Suspend;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::{Node, Property};
use fdt::Fdt;

/// What idle states are compatible with.
const COMPATIBLE: [&str; 2] = ["arm,idle-state", "domain-idle-state"];

/// `power_state` of CPU_SUSPEND.
const PARAMETER: &str = "arm,psci-suspend-param";

/// Properties that list idle states by phandle: of a CPU, of a power domain.
const LISTS: [&str; 2] = ["cpu-idle-states", "domain-idle-states"];

/// `power_state` of each idle state that is entered by PSCI, disabled ones included, because
/// [`remove_refused`] removes them too; `None` where it is not one cell.
pub(super) fn states(fdt: &Fdt<'_>) -> Vec<Option<u32>> {
    let is_state = |node: &fdt::node::FdtNode<'_, '_>| {
        COMPATIBLE.iter().any(|name| node::is_compatible(*node, name))
    };
    let states = fdt.all_nodes().filter(is_state);
    states.filter_map(|state| Some(cell(state.property(PARAMETER)?.value))).collect()
}

/// Removes the idle states that `suspend` does not relay, and what refers to them.
pub(super) fn remove_refused(root: &mut DeviceTreeNode, suspend: Suspend) {
    let mut removed = Vec::new();
    remove_below(root, suspend, &mut removed);
    if !removed.is_empty() {
        forget(root, &removed);
    }
}

/// Removes them below `parent`, and adds their phandles to `removed`, which is sorted.
fn remove_below(parent: &mut DeviceTreeNode, suspend: Suspend, removed: &mut Vec<u32>) {
    let refused = parent.children().filter(|child| is_refused(child, suspend));
    let names: Vec<String> = refused.map(|child| child.name().to_string()).collect();
    // The last first: each removal moves what is behind it.
    for name in names.into_iter().rev() {
        if let Some(state) = parent.remove_child(&name) {
            let state = &state;
            let phandle = Node::property(&state, "phandle");
            // Sorted, because it is searched for each entry of each list.
            if let Some(phandle) = phandle.and_then(|phandle| cell(phandle.value()))
                && let Err(place) = removed.binary_search(&phandle)
            {
                removed.insert(place, phandle);
            }
        }
    }
    for child in parent.children_mut() {
        remove_below(child, suspend, removed);
    }
}

/// Says whether the node is an idle state that CPU_SUSPEND would not enter. One that is not
/// entered by PSCI is none of ours.
fn is_refused(node: &DeviceTreeNode, suspend: Suspend) -> bool {
    let compatible = Node::property(&node, "compatible")
        .is_some_and(|found| COMPATIBLE.iter().any(|name| node::lists(found.value(), name)));
    let parameter = Node::property(&node, PARAMETER);
    compatible
        && parameter.is_some_and(|found| {
            !cell(found.value()).is_some_and(|state| suspend.is_standby(state))
        })
}

/// Takes phandles, which are sorted, out of all lists of idle states, and lists that get empty out of their nodes:
/// kernels count states by their place in the list.
fn forget(node: &mut DeviceTreeNode, removed: &[u32]) {
    for name in LISTS {
        let Some(list) = node.property_mut(name) else { continue };
        let is_removed = |phandle: u32| removed.binary_search(&phandle).is_ok();
        let keep = |entry: &&[u8]| !cell(entry).is_some_and(is_removed);
        let kept: Vec<u8> = (&*list).value().chunks(4).filter(keep).flatten().copied().collect();
        if kept.is_empty() {
            node.remove_property(name);
        } else {
            list.set_value(kept);
        }
    }
    for child in node.children_mut() {
        forget(child, removed);
    }
}

/// The value of a property that is one cell.
fn cell(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}
