// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of the protocol, broken one at a time.

/// What is known of a mutant.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
    /// The configuration that catches it.
    pub config: &'static str,
    /// The promises of which one is broken.
    pub promise: &'static str,
}

macro_rules! mutants {
    ($($mutant:ident, $name:literal, $config:literal, $promise:literal, $what:literal;)*) => {
        /// A rule that is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutant {
            $(#[doc = $what] $mutant,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$mutant),*];

            /// What is known of it.
            pub fn about(self) -> About {
                match self {
                    $(Mutant::$mutant => About {
                        name: $name,
                        what: $what,
                        config: $config,
                        promise: $promise,
                    },)*
                }
            }
        }
    };
}

mutants! {
    NoRivalLook, "no-rival-look", "two-frames", "P2/P3",
        "1: put does not look for a rival after it said WRITING";
    RivalIgnoresWriting, "rival-ignores-writing", "two-frames", "P2/P3",
        "1: put's second look heeds only what is published";
    RivalLookLate, "rival-look-late", "two-frames", "P2/P3",
        "1b: put looks for a rival only after it published";
    TwoAtWork, "two-at-work", "two-frames", "P2/P3",
        "1: put looks for a rival only where three frames are at work";
    TakeKeepsCached, "take-keeps-cached", "two-keys", "P2",
        "put leaves CACHED set in a frame that it takes";
    OneSet, "one-set", "two-sets", "P2/P3/P10", "a scan's first look leaves the second set out";
    BitsBeforeWait, "bits-before-wait", "claims", "P1",
        "2: claim sets the bit before it waits, and others trust it";
    BitsBeforeMaintenance, "bits-before-maintenance", "claims", "P1",
        "2b: claim sets the bit before its maintenance, and others trust it";
    BitsBeforeWaitUntrusted, "bits-before-wait-untrusted", "claims", "P4",
        "3: claim sets the bit before it waits; nobody trusts it, but a release clears it";
    DropAfterBits, "drop-after-bits", "claims", "P2",
        "4: claim drops what is cached only after it set the bit";
    ClaimKeepsCached, "claim-keeps-cached", "claims", "P2",
        "4: claim does not drop what is cached";
    BitsBeforeMaintenanceInvalidate, "invalidate-data", "claims", "P2",
        "5: claim invalidates data lines without cleaning them, after it set the bit";
    DeactivateVoidsCount, "deactivate-voids-count", "lend", "P6",
        "6: deactivate clears the count with the flag";
    DeactivateWithoutCount, "deactivate-without-count", "lend", "P4",
        "6: deactivate holds no count: a put does not notice if the block is lent again";
    ReleaseInvalidates, "release-invalidates", "claims", "P1",
        "7: release invalidates tag lines without cleaning them";
    ActivateWithoutMaintenance, "activate-without-maintenance", "lend", "P2",
        "8: activate does not clean the tags of dormant time";
    CountRestLate, "count-rest-late", "claims-pages", "P6",
        "9: claim of a range counts one page, and the rest after the bits";
    LooksBeforeItCounts, "looks-before-it-counts", "claims", "P1",
        "10: claim looks whether the block is in tags before it counts";
    NoWait, "no-wait", "claims", "P1", "claim does not wait for writers";
    NoCorrection, "no-correction", "claims", "P6",
        "claim does not count down pages that were claimed meanwhile";
    CountsFirstFrame, "counts-first-frame", "block", "P6",
        "claim counts the first frame of a block alone";
    WaitBetweenBlocks, "wait-between-blocks", "range", "P4",
        "claim of a range waits for one block before it counts the next";
    ReleaseCountsFirst, "release-counts-first", "claims", "P2",
        "release counts down before it maintains the tags";
    ReleaseCountsAll, "release-counts-all", "claims", "P6",
        "release counts down pages that were not claimed";
    NoPoll, "no-poll", "claims", "P4", "put never looks at its word while it copies";
    PollOnce, "poll-once", "claims", "P4", "put looks at its word before the first chunk only";
    PollIgnoresClaims, "poll-ignores-claims", "claims", "P4",
        "put looks whether its frame is active, not at its claims";
    NoAcknowledge, "no-acknowledge", "claims", "P4/P6", "a put that stops does not acknowledge";
    PublishWithoutCompare, "publish-without-compare", "claims", "P2",
        "put publishes without comparing the word";
    SequenceStays, "sequence-stays", "two-keys", "P2", "put does not move the sequence";
    NoKillScan, "no-kill-scan", "two-frames", "P2/P3/P10", "put does not drop earlier copies";
    NoEviction, "no-eviction", "two-keys", "P10", "put does not evict";
    FingerprintOnly, "fingerprint-only", "two-keys", "P2/P3",
        "keys are compared by fingerprint alone";
    NoValidation, "no-validation", "one-frame", "P2/P3", "get does not validate what it copied";
    NoHorizon, "no-horizon", "flush", "P2/P3", "get does not look at the moments";
    FreshIfLater, "fresh-if-later", "flush", "P10", "a page put at the moment counts as flushed";
    MomentEarly, "moment-early", "flush", "P2/P3", "flush's moment is one stamp early";
    MomentLate, "moment-late", "flush", "P10", "flush's moment is one stamp late";
    MomentStored, "moment-stored", "flush", "P2/P3",
        "flush stores its moment, which may move back";
    LaterBucket, "later-bucket", "buckets", "P10",
        "an object's horizon is the later of its buckets";
    OneBucket, "one-bucket", "flush", "P2/P3", "flush moves one of the object's buckets alone";
    PoolMomentIgnored, "pool-moment-ignored", "flush", "P2/P3",
        "get does not look at the pool's moment";
    StampPerPart, "stamp-per-part", "parts", "P10", "put draws a stamp for each part";
    StampNotUnique, "stamp-not-unique", "parts", "P2",
        "two puts may have one stamp";
    StampsNotCompared, "stamps-not-compared", "parts", "P2",
        "get does not compare the stamps of parts";
    EvictOwnPart, "evict-own-part", "parts-one-frame", "P10",
        "a part may evict another part of its own put";
    ReuseResetsMoment, "reuse-resets-moment", "pool", "P2/P3",
        "the pool's moment is reset when its id is used again";
    ReuseWithoutFlush, "reuse-without-flush", "pool", "P2/P3",
        "the pool is not flushed when its id is used again";
}
