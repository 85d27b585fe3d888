// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who answers, what a call keeps, and what the device tree says.

use crate::abi::{self, Answer, Conduit, function, status};
use crate::cpu;
use crate::machine::{self, machine};
use crate::tap::{Outcome, Test, check, fail, same};

/// The shim's UID, as UID answers it.
pub const UID: Answer =
    Answer { status: 0xc2d3_957a, x1: 0x6e4f_0b5e, x2: 0xc864_1a9d, x3: 0x503b_f7a1 };

/// Tests for any machine.
pub const TESTS: &[Test] = &[
    ("UID, revision and version are those of the contract", identity),
    ("VERSION's limits and features fit the machine", limits),
    ("the shim is not KVM and answers none of its numbers", not_kvm),
    ("P7 unknown functions are NOT_SUPPORTED", unknown_functions),
    ("the SVE hint and bits 63:32 of x0 are ignored", hint),
    ("SMC answers as HVC does", conduits),
    ("flags, FPCR and q0-q31 keep their values", simd),
    ("the device tree has the node /hypervisor", hypervisor_node),
    ("the device tree hides tag storage and modules", hidden_nodes),
    ("no-map nodes cover the storage; no other reservation overlaps them", reservations),
];

fn identity() -> Outcome {
    let uid = abi::hvc(function::UID, &[]);
    check!(uid == UID, "UID answers {uid:x?}");
    let revision = abi::hvc(function::REVISION, &[]);
    let version = abi::version();
    same!(version.status, 0, "VERSION: status");
    same!(version.x1 >> 16, 1, "VERSION: major");
    check!(
        revision == Answer::of(1, version.x1 & 0xffff, 0, 0),
        "revision is {revision:x?}, VERSION's x1 {:#x}",
        version.x1
    );
    Ok(())
}

fn limits() -> Outcome {
    let version = abi::version();
    same!(version.x3 & 0xffff, abi::RUN, "pages in a run of PUT");
    same!(version.x3 >> 16 & 0xffff, 64, "pools");
    let served = version.x3 >> 32 & 0xff;
    let there = machine().cpus.all().len() as u64;
    check!(served >= there, "serves {served} CPUs, the tree has {there}");
    same!(abi::regions(), machine().regions.all().len() as u64, "regions");
    same!(version.x3 >> 48, 0, "VERSION: x3 bits 63:48");
    let hidden = if machine().expects_hidden() { abi::FEATURE_TAGS_HIDDEN } else { 0 };
    let features = if machine().expects_storage() {
        abi::FEATURE_REUSE | abi::FEATURE_VERIFY | hidden
    } else {
        version.x2 & abi::FEATURE_VERIFY
    };
    same!(version.x2, features, "features");
    let state = abi::state();
    check!(state.ok(), "STATE: {}", state.status);
    same!(state.x2, machine().blocks(), "STATE: blocks");
    same!(state.x3, machine().frames(), "STATE: frames");
    // The order of regions is not told, so each described one must be there as often as wanted.
    let alike = |number: u64| {
        let region = abi::region(number);
        move |wanted: &&machine::Region| {
            region == Answer::of(0, wanted.frames(), wanted.block, wanted.tagged.pages())
        }
    };
    for number in 0..abi::regions() {
        let found = machine().regions.all().iter().filter(alike(number)).count();
        check!(found != 0, "REGION {number} fits no region: {:x?}", abi::region(number));
    }
    Ok(())
}

/// KVM's vendor service: features, PTP and memory protection.
const KVM: [u64; 10] = [
    0x8600_0000,
    0x8600_0001,
    0xc600_0000,
    0xc600_0001,
    0xc600_0002,
    0xc600_0003,
    0xc600_0004,
    0xc600_0007,
    0xc600_0040,
    0xc600_0041,
];

fn not_kvm() -> Outcome {
    const KVM_UID: Answer =
        Answer { status: 0xb66f_b428, x1: 0xe911_c52e, x2: 0x564b_caa9, x3: 0x743a_004d };
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        let uid = abi::call(conduit, [function::UID, 0, 0, 0, 0, 0, 0, 0]);
        check!(uid != KVM_UID, "the UID is KVM's");
        for number in KVM {
            let answer = abi::call(conduit, [number, 1, 2, 3, 4, 5, 6, 7]);
            let low = answer.status as i32;
            check!(low == -1, "{number:#x} by {conduit:?} answers {answer:x?}");
        }
    }
    Ok(())
}

fn unknown_functions() -> Outcome {
    for number in 0xc600_0100..0xc600_0200 {
        if !function::ALL.contains(&number) {
            let answer = abi::hvc(number, &[]);
            check!(
                answer == Answer::only(status::NOT_SUPPORTED),
                "{number:#x} answers {answer:x?}"
            );
        }
    }
    // 32-bit calls of the same numbers, yielding calls, reserved bits 23:17, other numbers.
    for number in function::ALL {
        for other in [number & !(1 << 30), number & !(1 << 31), number | 1 << 17, number | 1 << 23]
        {
            let answer = abi::hvc(other, &[]);
            check!(answer.status as i32 == -1, "{other:#x} answers {answer:x?}");
        }
    }
    for other in [0xc600_0000, 0xc600_00ff, 0xc600_ffff, 0x8600_ff02, 0x8600_ff04, 0xc600_ff01] {
        let answer = abi::hvc(other, &[]);
        check!(answer.status as i32 == -1, "{other:#x} answers {answer:x?}");
    }
    Ok(())
}

fn hint() -> Outcome {
    for bits in [1 << 16, 0xffff_ffff << 32, 0x8000_0000_0001_0000] {
        let version = abi::hvc(function::VERSION | bits, &[]);
        check!(version == abi::version(), "VERSION with {bits:#x} answers {version:x?}");
        let uid = abi::hvc(function::UID | bits, &[]);
        check!(uid == UID, "UID with {bits:#x} answers {uid:x?}");
        let unknown = abi::hvc(0xc600_01ff | bits, &[]);
        same!(unknown.status, status::NOT_SUPPORTED, "an unknown number with {bits:#x}");
    }
    Ok(())
}

fn conduits() -> Outcome {
    let calls: [(u64, u64); 9] = [
        (function::UID, 0),
        (function::REVISION, 0),
        (function::VERSION, 0),
        (function::REGION, 0),
        (function::REGION, 255),
        (function::STATISTIC, 0),
        (function::STATE, 0),
        (0xc600_01ff, 0),
        (function::FLUSH_POOL, u64::MAX),
    ];
    for (number, argument) in calls {
        let arguments = [number, argument, 0, 0, 0, 0, 0, 0];
        let hvc = abi::call(Conduit::Hvc, arguments);
        let smc = abi::call(Conduit::Smc, arguments);
        check!(hvc == smc, "{number:#x}: HVC answers {hvc:x?}, SMC {smc:x?}");
    }
    Ok(())
}

fn simd() -> Outcome {
    const ROUND_DOWN: u64 = 2 << 22;
    let page = crate::arena::take(2);
    let pool = match abi::create_private(12) {
        Answer { status: 0, x1, .. } => x1,
        _ => u64::MAX,
    };
    let put = abi::page_arguments(function::PUT, abi::Key::new(pool, 1, 2), page.address(), 1);
    let get =
        abi::page_arguments(function::GET, abi::Key::new(pool, 1, 2), page.address() + 4096, 1);
    let mut outcome = Ok(());
    for (round, arguments) in [[function::VERSION; 8], put, get].into_iter().enumerate() {
        let vectors = core::array::from_fn(|word| crate::prng::mix((word << 8 | round) as u64));
        for flags in [0x9000_0000, 0x6000_0000] {
            let mut state = cpu::SimdState { vectors, control: ROUND_DOWN, flags };
            // SAFETY: the pages are the test's own.
            unsafe { cpu::hvc_simd(&mut state, &mut { arguments }) };
            if state.vectors != vectors || state.control != ROUND_DOWN || state.flags != flags {
                let word = (0..64).find(|word| state.vectors[*word] != vectors[*word]);
                outcome = Err(crate::tap::failed(format_args!(
                    "after {:#x}: word {word:?} of the vectors differs, FPCR {:#x}, flags {:#x}",
                    arguments[0], state.control, state.flags
                )));
            }
        }
    }
    abi::destroy(pool);
    outcome
}

fn hypervisor_node() -> Outcome {
    let Some(node) = machine().tree.find_node("/hypervisor") else { fail!("there is none") };
    check!(
        machine::is_compatible(node, "tagstash,tagstash-1"),
        "it is not compatible with tagstash,tagstash-1"
    );
    let method = node.property("method").and_then(|method| method.as_str());
    check!(method == Some("hvc"), "its method is {method:?}");
    let psci = machine().tree.find_node("/psci").and_then(|node| node.property("method"));
    let method = psci.and_then(|method| method.as_str());
    check!(method == Some("smc"), "the method of /psci is {method:?}");
    Ok(())
}

fn hidden_nodes() -> Outcome {
    for node in machine().tree.all_nodes() {
        for name in
            ["arm,mte-tag-storage", "multiboot,module", "multiboot,kernel", "multiboot,ramdisk"]
        {
            check!(!machine::is_compatible(node, name), "{} is compatible with {name}", node.name);
        }
    }
    Ok(())
}

fn reservations() -> Outcome {
    let machine = machine();
    for region in machine.regions.all() {
        check!(
            machine.no_map.hold(region.storage),
            "storage {:#x}-{:#x} is not reserved by no-map",
            region.storage.start,
            region.storage.end
        );
    }
    // The shim itself lies somewhere too.
    let storage: u64 = machine.regions.all().iter().map(|region| region.storage.length()).sum();
    let reserved: u64 = machine.no_map.all().iter().map(|range| range.length()).sum();
    check!(reserved > storage, "nothing but the storage is reserved: where is the shim?");
    for entry in machine.tree.memory_reservations() {
        let range = crate::ranges::Range::of(entry.address() as u64, entry.size() as u64);
        check!(
            !machine.no_map.touch(range),
            "the memory reservation block has {:#x}-{:#x}, which a no-map node has too",
            range.start,
            range.end
        );
    }
    Ok(())
}
