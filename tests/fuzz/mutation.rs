//! Inputs made of others: pieces of them in other places, more than once or not at all, and bytes
//! that are often special.

/// So long an input becomes.
const LONGEST: usize = 4096;
/// What parsers look for.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b";",
    b"=",
    b",",
    b"\"",
    b"\\",
    b"|",
    b"(",
    b")",
    b"/",
    b"..",
    b"-",
    b"@",
    b":",
    b"%",
    b"\xff\xff\xff\xff",
    b"4294967296",
    b"18446744073709551616",
    b"-1",
    b"\xff",
    b"\x80",
];

pub struct Mutations<'a> {
    corpus: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutations<'a> {
    /// The same for the same seed. There must be something to begin with.
    pub fn new(corpus: &'a [Vec<u8>], seed: u64) -> Self {
        Self {
            corpus,
            state: seed,
        }
    }

    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.one().to_vec();
        for _ in 0..1 + self.below(6) {
            self.mutate(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(32) + 1);
        match self.below(8) {
            0 => self.flip(input),
            1 => self.set(input),
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let times = 1 + self.below(8);
                drop(input.splice(at..at, piece.repeat(times)));
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                drop(input.splice(at..end, word.iter().copied()));
            }
            6 => input.truncate(at),
            // Its beginning, and another's end.
            _ => {
                let other = self.one();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    fn flip(&mut self, input: &mut [u8]) {
        let (at, bit) = (self.below(input.len().max(1)), self.below(8));
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    fn set(&mut self, input: &mut [u8]) {
        let (at, new) = (self.below(input.len().max(1)), self.byte());
        if let Some(byte) = input.get_mut(at) {
            *byte = new;
        }
    }

    fn one(&mut self) -> &'a [u8] {
        let corpus = self.corpus;
        &corpus[self.below(corpus.len())]
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// splitmix64.
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}

#[test]
fn a_seed_repeats_its_inputs_and_they_differ() {
    let corpus = [b"one".to_vec(), b"another, longer".to_vec(), Vec::new()];
    let inputs = |seed| {
        let mut mutations = Mutations::new(&corpus, seed);
        (0..200).map(|_| mutations.next()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(7), inputs(7));
    let mut different = inputs(7);
    different.sort();
    different.dedup();
    assert!(different.len() > 150, "{}", different.len());
}
