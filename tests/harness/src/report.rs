// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report: a short story on one CPU, told in numbers for a reader.

use core::fmt;

use crate::abi::{self, Key, function, statistic};
use crate::arena::{self, Pages};
use crate::cases::longest;
use crate::console::println;
use crate::cpu;
use crate::machine::machine;
use crate::ranges::{PAGE, Range};
use crate::stash::{self, Census, Pool};
use crate::tags::{self, Store};
use crate::tap::{Outcome, Stop, check, same};

/// Tells the story and prints the report.
pub fn run() -> Outcome {
    check!(machine().expects_storage(), "a machine without tag storage has no story");
    // SAFETY: nothing was taken before.
    unsafe { arena::reset() };
    let costs = Costs::measure()?;
    let story = Story::play()?;

    println!();
    println!("Tagstash: what became of the idle tag storage");
    println!("=============================================");
    story.print_regions()?;
    story.print_frames()?;
    story.print_maps()?;
    story.print_statistics();
    costs.print();
    story.print_integrity();
    story.finish()
}

/// A number with commas between thousands.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b' '; 26];
        let mut at = text.len();
        let mut rest = self.0;
        let mut digits = 0;
        loop {
            if digits != 0 && digits % 3 == 0 {
                at -= 1;
                text[at] = b',';
            }
            at -= 1;
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            digits += 1;
            if rest == 0 {
                break;
            }
        }
        formatter.pad(str::from_utf8(&text[at..]).unwrap_or("?"))
    }
}

/// A share in percent with one decimal.
struct Percent(u64, u64);

impl fmt::Display for Percent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 1000 + self.1 / 2) / self.1.max(1);
        write!(formatter, "{:3}.{} %", tenths / 10, tenths % 10)
    }
}

/// Bytes in KiB or MiB.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1 << 20 {
            let tenths = (self.0 * 10) >> 20;
            write!(formatter, "{:5}.{} MiB", tenths / 10, tenths % 10)
        } else {
            write!(formatter, "{:7} KiB", self.0 >> 10)
        }
    }
}

// ---- the story ------------------------------------------------------------------------------

/// Seed of the story's tags.
const SEED: u64 = 2024;

/// What the guest did, and still holds.
struct Story {
    pool: Pool,
    put: u64,
    asked: u64,
    hits: u64,
    /// Runs of pages that are in tags at the end.
    tagged: [Range; 2],
    /// Single pages in tags: so many, so far apart.
    singles: Range,
    before: [u64; statistic::COUNT as usize],
}

/// Every so many pages of the third quarter one page is tagged.
const SINGLES_APART: u64 = 2011;

impl Story {
    fn play() -> Result<Story, Stop> {
        stash::fresh()?;
        let before = abi::statistics();
        let frames = machine().frames();
        let pool = Pool::shared()?;
        let (source, destination) = stash::buffers(&pool);

        // The page cache lets clean pages go: half as many again as there is room for.
        let put = frames * 3 / 2;
        for index in 0..put {
            stash::put_kept(source, pool.key(index % 16, index), index)?;
        }

        // Programs begin to use tags: a large heap, another one, and pages here and there.
        let region = machine().regions.all()[0];
        let piece = longest(&region);
        let part = piece.pages() / 16;
        let at = |sixteenth: u64| piece.start + sixteenth * part * PAGE;
        let heap = Range::of(at(2), part * PAGE);
        let other = Range::of(at(5), part * 2 * PAGE);
        let singles = Range::of(at(8), part * 4 * PAGE);
        let mut story =
            Story { pool, put, asked: 0, hits: 0, tagged: [heap, other], singles, before };
        for run in story.tagged {
            same!(abi::reclaim(run.start, run.pages()).x2, run.pages(), "pages claimed");
        }
        for page in story.single_pages() {
            same!(abi::reclaim(page, 1).x2, 1, "pages claimed");
        }
        story.for_tagged(|page| {
            tags::write(page, SEED, Store::Stgm);
            Ok(())
        })?;

        // Files are read again, latest first; what is not in the stash comes from the disk.
        for index in (put / 3..put).rev() {
            story.asked += 1;
            if let Some(sequence) = stash::get(destination, story.pool.key(index % 16, index))? {
                same!(sequence, index, "sequence of page {index}");
                story.hits += 1;
            }
        }

        // The second program ends, and gives back what it no longer needs.
        let kept = Range::of(other.start, part / 2 * PAGE);
        let gone = Range { start: kept.end, end: other.end };
        same!(abi::release(gone.start, gone.pages()).x2, gone.pages(), "claims given back");
        story.tagged[1] = kept;
        Ok(story)
    }

    fn single_pages(&self) -> impl Iterator<Item = u64> + use<> {
        let singles = self.singles;
        (0..singles.pages())
            .step_by(SINGLES_APART as usize)
            .map(move |at| singles.start + at * PAGE)
    }

    fn for_tagged(&self, mut each: impl FnMut(u64) -> Outcome) -> Outcome {
        for run in self.tagged {
            for page in 0..run.pages() {
                each(run.start + page * PAGE)?;
            }
        }
        for page in self.single_pages() {
            each(page)?;
        }
        Ok(())
    }

    fn print_regions(&self) -> Outcome {
        println!();
        println!(
            "Tag storage that the shim found in the device tree. Each block holds the tags of"
        );
        println!("one run of memory, 32 times its size; each 4 KiB of it is one frame.");
        println!();
        println!("  region    blocks  block size    frames       storage   tagged memory");
        for number in 0..abi::regions() {
            let region = abi::region(number);
            check!(region.ok(), "REGION {number}: {region:x?}");
            println!(
                "  {number:6}  {:>8}  {:>10}  {:>8}  {:>12}  {:>14}",
                Grouped(region.x1 * PAGE / region.x2),
                Padded(format_args!("{} KiB", region.x2 >> 10)),
                Grouped(region.x1),
                Padded(format_args!("{}", Bytes(region.x1 * PAGE))),
                Padded(format_args!("{}", Bytes(region.x3 * PAGE))),
            );
        }
        Ok(())
    }

    fn print_frames(&self) -> Outcome {
        let Census { tags, cached, free, dormant } = stash::census()?;
        let all = machine().frames();
        println!();
        println!(
            "What the frames hold at the end of the story: the page cache let {} clean",
            Grouped(self.put)
        );
        println!("pages go, programs tagged memory, files were read again, one program ended.");
        println!();
        for (name, count, what) in [
            ("in tags", tags, "tags of claimed memory"),
            ("cached", cached, "a page of the guest's page cache"),
            ("free", free, "nothing, ready for a page"),
            ("dormant", dormant, "not lent, left to tags"),
        ] {
            println!("  {name:8} {:>8} {}   {what}", Grouped(count), Percent(count, all));
        }
        println!("  {:8} {:>8}", "together", Grouped(tags + cached + free + dormant));
        Ok(())
    }

    fn print_maps(&self) -> Outcome {
        const COLUMNS: u64 = 64;
        const LINES: u64 = 12;
        for number in 0..abi::regions() {
            let frames = abi::region(number).x1;
            let slice = frames.div_ceil(COLUMNS * LINES).max(1);
            println!();
            println!(
                "Region {number} as a map, lowest address first. One character stands for {slice}"
            );
            println!("frames, for {} of memory if they are in tags:", Plain(slice * PAGE * 32));
            println!("  T most in tags   t some in tags   # cached   . free   - dormant");
            println!();
            let mut at = 0;
            while at < frames {
                let mut line = [b' '; COLUMNS as usize];
                for cell in &mut line {
                    if at < frames {
                        let count = slice.min(frames - at);
                        *cell = letter(stash::census_of(number, at, count)?);
                        at += count;
                    }
                }
                println!("  |{}|", str::from_utf8(&line).unwrap_or("?"));
            }
        }
        Ok(())
    }

    fn print_statistics(&self) {
        let now = abi::statistics();
        println!();
        println!("What the shim counted during the story.");
        println!();
        let count = |number: u64| now[number as usize] - self.before[number as usize];
        let shown = [
            (statistic::PUTS, "pages offered"),
            (statistic::PUTS_CACHED, "of these kept"),
            (statistic::EVICTIONS, "pages that gave way to others"),
            (statistic::GETS, "pages asked for"),
            (statistic::HITS, "of these found"),
            (statistic::MISMATCHES, "pages that failed verification"),
            (statistic::CLAIMS, "pages claimed for tags"),
            (statistic::RELEASES, "claims given back"),
            (statistic::BLOCKS_TAKEN, "blocks taken from the stash for claims"),
            (statistic::PAGES_DROPPED, "cached pages dropped for that"),
            (statistic::WAIT_POLLS, "polls for writers on other CPUs"),
        ];
        for (number, what) in shown {
            let name = statistic::NAMES[number as usize];
            println!("  {name:14} {:>9}   {what}", Grouped(count(number)));
        }
    }

    fn print_integrity(&self) {
        let mut pages = 0;
        let tags = self.for_tagged(|page| {
            tags::verify(page, SEED)?;
            tags::verify_stored(page, SEED)?;
            pages += 1;
            Ok(())
        });
        println!();
        println!("Integrity.");
        println!();
        // A hit with a wrong byte has ended the story before this line.
        println!(
            "  pages  GOOD: {} of {} gets hit, each with exactly the bytes put",
            Grouped(self.hits),
            Grouped(self.asked)
        );
        if tags.is_ok() {
            println!(
                "  tags   GOOD: {} tags of {} pages read back by LDG and LDGM, and the",
                Grouped(pages * PAGE / 16),
                Grouped(pages)
            );
            println!("         bytes in tag storage, seen by the host, are these tags");
        } else {
            println!("  tags   BAD");
        }
    }

    /// Fails if something was bad; gives everything back.
    fn finish(self) -> Outcome {
        check!(self.hits * 2 >= self.asked, "only {} of {} gets hit", self.hits, self.asked);
        self.for_tagged(|page| {
            tags::verify(page, SEED)?;
            tags::verify_stored(page, SEED)
        })?;
        println!();
        stash::deactivate()
    }
}

/// Words that are padded as a whole.
struct Padded<'a>(fmt::Arguments<'a>);

impl fmt::Display for Padded<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Text([u8; 32], usize);
        impl fmt::Write for Text {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                let text = if self.1 == 0 { text.trim_start() } else { text };
                for byte in text.bytes() {
                    *self.0.get_mut(self.1).ok_or(fmt::Error)? = byte;
                    self.1 += 1;
                }
                Ok(())
            }
        }
        let mut text = Text([0; 32], 0);
        fmt::Write::write_fmt(&mut text, self.0)?;
        formatter.pad(str::from_utf8(&text.0[..text.1]).unwrap_or("?"))
    }
}

/// Bytes without padding.
struct Plain(u64);

impl fmt::Display for Plain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1 << 20 && self.0.is_multiple_of(1 << 20) {
            write!(formatter, "{} MiB", self.0 >> 20)
        } else {
            write!(formatter, "{} KiB", self.0 >> 10)
        }
    }
}

/// The character of some frames: what most of them hold, tags first.
fn letter(census: Census) -> u8 {
    let Census { tags, cached, free, dormant } = census;
    if tags * 2 >= census.sum() {
        b'T'
    } else if tags != 0 {
        b't'
    } else if cached >= free && cached >= dormant {
        b'#'
    } else if free >= dormant {
        b'.'
    } else {
        b'-'
    }
}

// ---- instructions ---------------------------------------------------------------------------

/// The fewest and the most instructions of a call.
#[derive(Clone, Copy, Default)]
struct Cost {
    calls: u64,
    least: u64,
    most: u64,
}

impl Cost {
    fn add(&mut self, instructions: u64) {
        self.least = if self.calls == 0 { instructions } else { self.least.min(instructions) };
        self.most = self.most.max(instructions);
        self.calls += 1;
    }
}

/// Names of the measured calls, in the order of [`Costs`]' fields.
const CALLS: [&str; 14] = [
    "null call (VERSION)",
    "PUT, into a free frame",
    "PUT, another page gives way",
    "PUT, all in tags: refused",
    "GET, hit",
    "GET, miss",
    "FLUSH_PAGE, the page is there",
    "FLUSH_PAGE, it is not",
    "FLUSH_OBJECT, all pages of a file",
    "RECLAIM, the block is free",
    "RECLAIM, it holds a cached page",
    "RECLAIM, it is in tags already",
    "RECLAIM, the page is claimed",
    "RELEASE",
];

/// What was measured.
struct Costs {
    /// Whether a tick of the counter is an instruction.
    exact: bool,
    calls: [Cost; CALLS.len()],
    copy: Cost,
}

/// Which call of [`CALLS`].
#[derive(Clone, Copy)]
enum Call {
    Null,
    PutFree,
    PutEvict,
    PutRefused,
    Hit,
    Miss,
    FlushThere,
    FlushGone,
    FlushObject,
    ClaimFree,
    ClaimCached,
    ClaimTags,
    ClaimHeld,
    Release,
}

/// How often each call is measured.
const REPEATS: u64 = 64;

impl Costs {
    fn measure() -> Result<Costs, Stop> {
        let mut costs = Costs { exact: true, calls: Default::default(), copy: Cost::default() };
        for _ in 0..8 {
            let own = cpu::timed_sixteen().wrapping_sub(cpu::timed_nothing());
            costs.exact &= cpu::counter_frequency() == 1_000_000_000 && own == 16;
        }
        if costs.exact {
            costs.null_and_copy();
            costs.pages()?;
            costs.claims()?;
        }
        Ok(costs)
    }

    /// Makes a call and notes what it takes. The answer's `x0`-`x3`.
    fn call(&mut self, call: Call, arguments: [u64; 8]) -> [u64; 4] {
        let (instructions, answer) = timed(arguments);
        self.calls[call as usize].add(instructions);
        answer
    }

    fn null_and_copy(&mut self) {
        let pages = arena::take(2);
        for _ in 0..REPEATS {
            self.call(Call::Null, [function::VERSION; 8]);
            // SAFETY: the pages are ours.
            let ticks = unsafe { cpu::timed_copy(pages.address(), pages.address() + PAGE) };
            self.copy.add(ticks - cpu::timed_nothing());
        }
    }

    fn pages(&mut self) -> Outcome {
        stash::fresh()?;
        let pool = Pool::private()?;
        let (source, destination) = stash::buffers(&pool);
        let page = |function: u64, key: Key, pages: Pages| {
            abi::page_arguments(function, key, pages.address(), 1)
        };
        let evictions = || abi::statistic(statistic::EVICTIONS);
        for index in 0..REPEATS {
            let key = pool.key(1, index);
            let answer = self.call(Call::PutFree, page(function::PUT, key, source));
            same!(answer[0], 0, "PUT into a free frame");
            let answer = self.call(Call::Hit, page(function::GET, key, destination));
            same!(answer[0], 0, "GET of a page that is there");
            let answer = self.call(Call::Miss, page(function::GET, key, destination));
            check!(answer[0] as i64 == abi::status::MISS, "GET of no page: {answer:x?}");
            abi::put(key, source.address(), 1);
            self.call(Call::FlushThere, page(function::FLUSH_PAGE, key, source));
            self.call(Call::FlushGone, page(function::FLUSH_PAGE, key, source));
            abi::put(key, source.address(), 1);
            self.call(Call::FlushObject, [function::FLUSH_OBJECT, pool.id, 1, 0, 0, 0, 0, 0]);
        }
        // Full, so that most puts evict. Hits leave a shared pool's pages where they are.
        let filler = Pool::shared()?;
        stash::flood(&filler, 2, 3 * machine().frames())?;
        for index in 0..machine().frames() {
            let before = evictions();
            let key = pool.key(3, index);
            let (instructions, answer) = timed(page(function::PUT, key, source));
            same!(answer[0], 0, "PUT into a full stash");
            // Some find a frame that is free still.
            if evictions() == before + 1 {
                self.calls[Call::PutEvict as usize].add(instructions);
            }
            if self.calls[Call::PutEvict as usize].calls == REPEATS {
                break;
            }
        }
        Ok(())
    }

    fn claims(&mut self) -> Outcome {
        stash::fresh()?;
        let piece = longest(&machine().regions.all()[0]);
        let apart = piece.pages() / (3 * REPEATS) * PAGE;
        // Even, so that the page's neighbour is guest RAM too, and in the same block.
        let page_of = |at: u64| (piece.start + at * apart).next_multiple_of(2 * PAGE);
        let claim = |function: u64, page: u64| [function, page, 1, 0, 0, 0, 0, 0];
        let dropped = || abi::statistic(statistic::PAGES_DROPPED);
        for at in 0..REPEATS {
            let page = page_of(at);
            let neighbour = page ^ PAGE;
            same!(self.call(Call::ClaimFree, claim(function::RECLAIM, page))[2], 1, "RECLAIM");
            self.call(Call::ClaimHeld, claim(function::RECLAIM, page));
            let answer = self.call(Call::ClaimTags, claim(function::RECLAIM, neighbour));
            same!(answer[2], 1, "RECLAIM of the neighbour");
            abi::release(neighbour, 1);
            same!(self.call(Call::Release, claim(function::RELEASE, page))[2], 1, "RELEASE");
        }
        let pool = Pool::shared()?;
        stash::flood(&pool, 5, 3 * machine().frames())?;
        for at in REPEATS..3 * REPEATS {
            let before = dropped();
            let (instructions, _) = timed(claim(function::RECLAIM, page_of(at)));
            if dropped() > before {
                self.calls[Call::ClaimCached as usize].add(instructions);
            }
            abi::release(page_of(at), 1);
        }
        // Everything in tags.
        let ram = machine().ram.all();
        let (start, end) = (ram[0].start, ram[ram.len() - 1].end);
        abi::reclaim(start, (end - start) / PAGE);
        let (source, _) = stash::buffers(&pool);
        for index in 0..REPEATS {
            let key = pool.key(6, index);
            let arguments = abi::page_arguments(function::PUT, key, source.address(), 1);
            let (instructions, answer) = timed(arguments);
            if answer[0] as i64 == abi::status::NOT_CACHED {
                self.calls[Call::PutRefused as usize].add(instructions);
            }
        }
        abi::release(start, (end - start) / PAGE);
        Ok(())
    }

    fn print(&self) {
        println!();
        println!("Instructions of a call on one 4 KiB page, from the HVC to the instruction after");
        println!("it, on one CPU. The emulator counts instructions exactly; it has no caches and");
        println!("no memory latency, so this is work, not time.");
        println!();
        if !self.exact {
            println!("  Counts are not available: they need `-icount shift=0` and a CPU whose");
            println!(
                "  counter ticks at 1 GHz (`-cpu max`); this one ticks at {} Hz.",
                cpu::counter_frequency()
            );
            return;
        }
        println!("                                        least      most   calls");
        for (name, cost) in CALLS.iter().zip(&self.calls) {
            println!(
                "  {name:34}  {:>9} {:>9} {:>7}",
                Grouped(cost.least),
                Grouped(cost.most),
                cost.calls
            );
        }
        println!(
            "  {:34}  {:>9} {:>9} {:>7}",
            "to compare: copying 4 KiB, LDP/STP",
            Grouped(self.copy.least),
            Grouped(self.copy.most),
            self.copy.calls
        );
    }
}

/// A call's instructions and its answer's `x0`-`x3`.
fn timed(arguments: [u64; 8]) -> (u64, [u64; 4]) {
    // SAFETY: pages in the arguments are the report's own.
    let (ticks, answer) = unsafe { cpu::timed_hvc(&arguments) };
    (ticks - cpu::timed_nothing(), answer)
}
