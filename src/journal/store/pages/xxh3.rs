//! XXH3 in its form of 128 bits, with the default secret and seed: the checksum that redb keeps of
//! each page. redb has it too, and does not export it. The names are those of the specification,
//! `doc/xxhash_spec.md` of xxHash; inputs of up to 16 bytes, which no page has, are left out.

/// Bytes of a checksum.
pub const SUM_BYTES: usize = 16;

const STRIPE_BYTES: usize = 64;
/// How far the secret moves from one stripe to the next.
const STEP: usize = 8;
const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE_BYTES) / STEP;

const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

const PRIME32: [u64; 3] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D];
const PRIME64: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// Returns the checksum as redb stores it; `None` if there are no more than 16 bytes.
pub fn sum(data: &[u8]) -> Option<[u8; SUM_BYTES]> {
    let sum = match data.len() {
        0..=16 => return None,
        17..=128 => short(data),
        129..=240 => medium(data),
        _ => long(data),
    };
    Some(sum.to_le_bytes())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

fn fold(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    product as u64 ^ (product >> 64) as u64
}

fn avalanche(mut hash: u64) -> u64 {
    hash ^= hash >> 37;
    hash = hash.wrapping_mul(0x1656_6791_9E37_79F9);
    hash ^ (hash >> 32)
}

/// Mixes 16 bytes at each of two places into the two halves.
fn mix(halves: [u64; 2], data: &[u8], [one, two]: [usize; 2], secret: usize) -> [u64; 2] {
    let part = |at: usize, secret: usize| {
        let keyed = |by: usize| word(data, at + by) ^ word(&SECRET, secret + by);
        fold(keyed(0), keyed(8))
    };
    let plain = |at: usize| word(data, at).wrapping_add(word(data, at + 8));
    [
        halves[0].wrapping_add(part(one, secret)) ^ plain(two),
        halves[1].wrapping_add(part(two, secret + 16)) ^ plain(one),
    ]
}

fn join([low, high]: [u64; 2], len: usize) -> u128 {
    let mixed = low.wrapping_mul(PRIME64[0]);
    let mixed = mixed.wrapping_add(high.wrapping_mul(PRIME64[3]));
    let mixed = mixed.wrapping_add((len as u64).wrapping_mul(PRIME64[1]));
    let (low, high) = (avalanche(low.wrapping_add(high)), avalanche(mixed).wrapping_neg());
    u128::from(high) << 64 | u128::from(low)
}

fn begin(len: usize) -> [u64; 2] {
    [(len as u64).wrapping_mul(PRIME64[0]), 0]
}

fn short(data: &[u8]) -> u128 {
    let len = data.len();
    let mut halves = begin(len);
    for n in (0..len.div_ceil(32)).rev() {
        halves = mix(halves, data, [16 * n, len - 16 * (n + 1)], 32 * n);
    }
    join(halves, len)
}

fn medium(data: &[u8]) -> u128 {
    let len = data.len();
    let mut halves = begin(len);
    for n in 0..len / 32 {
        if n == 4 {
            halves = halves.map(avalanche);
        }
        let secret = if n < 4 { 32 * n } else { 3 + 32 * (n - 4) };
        halves = mix(halves, data, [32 * n, 32 * n + 16], secret);
    }
    if len < 160 {
        halves = halves.map(avalanche);
    }
    join(mix(halves, data, [len - 16, len - 32], 103), len)
}

fn accumulate(lanes: &mut [u64; 8], stripe: &[u8], secret: &[u8]) {
    for lane in 0..8 {
        let value = word(stripe, 8 * lane);
        let keyed = value ^ word(secret, 8 * lane);
        lanes[lane ^ 1] = lanes[lane ^ 1].wrapping_add(value);
        lanes[lane] = lanes[lane].wrapping_add((keyed & 0xFFFF_FFFF) * (keyed >> 32));
    }
}

fn merge(lanes: &[u64; 8], secret: usize, start: u64) -> u64 {
    let pairs = lanes.chunks_exact(2).enumerate();
    avalanche(pairs.fold(start, |sum, (n, pair)| {
        let keyed = |by: usize| pair[by] ^ word(&SECRET, secret + 16 * n + 8 * by);
        sum.wrapping_add(fold(keyed(0), keyed(1)))
    }))
}

fn long(data: &[u8]) -> u128 {
    let [p1, p2, p3, p4, p5] = PRIME64;
    let mut lanes = [PRIME32[2], p1, p2, p3, p4, PRIME32[1], p5, PRIME32[0]];
    let len = data.len();
    // The last stripe ends where the input does, and so may begin within the one before it.
    let stripes = data[..len - 1].chunks_exact(STRIPE_BYTES);
    for (n, stripe) in stripes.enumerate() {
        let place = n % STRIPES_PER_BLOCK;
        accumulate(&mut lanes, stripe, &SECRET[STEP * place..]);
        if place == STRIPES_PER_BLOCK - 1 {
            for (lane, value) in lanes.iter_mut().enumerate() {
                let secret = word(&SECRET, SECRET.len() - STRIPE_BYTES + 8 * lane);
                *value = (*value ^ (*value >> 47) ^ secret).wrapping_mul(PRIME32[0]);
            }
        }
    }
    let last = SECRET.len() - STRIPE_BYTES - 7;
    accumulate(&mut lanes, &data[len - STRIPE_BYTES..], &SECRET[last..]);
    let len = len as u64;
    let low = merge(&lanes, 11, len.wrapping_mul(PRIME64[0]));
    let high = merge(&lanes, SECRET.len() - 64 - 11, !len.wrapping_mul(PRIME64[1]));
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the implementation in redb 4.6, of lengths on both sides of each case.
    #[test]
    fn checksums_are_those_of_redb() {
        let data: Vec<u8> =
            (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (len, known) in [
            (17, 0xdb7e_8f77_961e_47fd_8787_5150_9ecf_db8b),
            (32, 0x3e97_336e_6cbb_6ee0_de94_574d_7a58_9440),
            (33, 0x3411_cfe6_92c2_e51e_e292_8442_749d_be83),
            (64, 0x4928_9331_6886_5587_66fa_1292_23be_93a5),
            (97, 0xdd6a_d8d4_fb14_33a9_8ea9_3245_0271_fde4),
            (128, 0xba44_fd01_8231_af4c_bbe0_87d8_79ed_cc78),
            (129, 0x522c_9227_43fd_67f1_b807_5934_1072_18e5),
            (159, 0xb8d8_4928_ce30_df2a_d19a_d5c3_6f24_3195),
            (160, 0xb551_4c06_7fd6_2918_0e08_f445_e497_507a),
            (240, 0x4f49_ccc8_526a_a7ad_4078_83ea_5ef9_5b9a),
            (241, 0x50b6_2ee1_ee64_55a7_bc42_4a2c_480d_d281),
            (1024, 0x53bd_178b_75ab_292e_1fd1_5e7d_36f5_e1bc),
            (1025, 0xd1ad_5f4a_3cce_4374_fe08_e5a8_74d2_3fd2),
            (1089, 0x76f7_b4fc_4072_70d6_b246_626f_df15_0fcb),
            (8192, 0x85db_0cf7_81f3_5c88_4583_0b92_71bf_697a_u128),
        ] {
            assert_eq!(sum(&data[..len]), Some(known.to_le_bytes()), "{len} bytes");
        }
        assert_eq!(sum(&data[..16]), None);
    }
}
