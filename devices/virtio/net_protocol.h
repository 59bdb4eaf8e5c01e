#pragma once

#include <cstdint>

namespace vmmd::devices {

// virtio 1.2, 5.1: the network device.

// Feature bits (5.1.3).
inline constexpr std::uint64_t kNetCsum = 1ULL << 0;
inline constexpr std::uint64_t kNetGuestCsum = 1ULL << 1;
inline constexpr std::uint64_t kNetCtrlGuestOffloads = 1ULL << 2;
inline constexpr std::uint64_t kNetMtu = 1ULL << 3;
inline constexpr std::uint64_t kNetMac = 1ULL << 5;
inline constexpr std::uint64_t kNetGuestTso4 = 1ULL << 7;
inline constexpr std::uint64_t kNetGuestTso6 = 1ULL << 8;
inline constexpr std::uint64_t kNetGuestEcn = 1ULL << 9;
inline constexpr std::uint64_t kNetGuestUfo = 1ULL << 10;
inline constexpr std::uint64_t kNetHostTso4 = 1ULL << 11;
inline constexpr std::uint64_t kNetHostTso6 = 1ULL << 12;
inline constexpr std::uint64_t kNetHostEcn = 1ULL << 13;
inline constexpr std::uint64_t kNetHostUfo = 1ULL << 14;
inline constexpr std::uint64_t kNetMergeBuffers = 1ULL << 15;
inline constexpr std::uint64_t kNetStatus = 1ULL << 16;
inline constexpr std::uint64_t kNetCtrlQueue = 1ULL << 17;
inline constexpr std::uint64_t kNetGuestAnnounce = 1ULL << 21;
inline constexpr std::uint64_t kNetMultiQueue = 1ULL << 22;
inline constexpr std::uint64_t kNetGuestUso4 = 1ULL << 54;
inline constexpr std::uint64_t kNetGuestUso6 = 1ULL << 55;
inline constexpr std::uint64_t kNetHostUso = 1ULL << 56;

// What the options offload_csum, offload_tso and offload_ufo offer.
inline constexpr std::uint64_t kNetCsumOffloads = kNetCsum | kNetGuestCsum;
inline constexpr std::uint64_t kNetTsoOffloads =
    kNetGuestTso4 | kNetGuestTso6 | kNetGuestEcn | kNetHostTso4 | kNetHostTso6 | kNetHostEcn;
inline constexpr std::uint64_t kNetUfoOffloads =
    kNetGuestUfo | kNetGuestUso4 | kNetGuestUso6 | kNetHostUfo | kNetHostUso;
/// What the guest's side can take: what CTRL_GUEST_OFFLOADS turns on and off.
inline constexpr std::uint64_t kNetGuestOffloads = kNetGuestCsum | kNetGuestTso4 | kNetGuestTso6 |
                                                   kNetGuestEcn | kNetGuestUfo | kNetGuestUso4 |
                                                   kNetGuestUso6;

// Configuration (5.1.4).
inline constexpr std::uint16_t kNetStatusLinkUp = 1;
inline constexpr std::uint16_t kNetStatusAnnounce = 2;

/// Of the header in front of each frame (5.1.6): le16, how many chains a received frame takes.
inline constexpr std::uint64_t kNetNumBuffersOffset = 10;

// The control queue (5.1.6.5).
inline constexpr std::uint8_t kNetCtrlOk = 0;
inline constexpr std::uint8_t kNetCtrlError = 1;
inline constexpr std::uint8_t kNetCtrlAnnounce = 3;     // class
inline constexpr std::uint8_t kNetCtrlAnnounceAck = 0;  // command
inline constexpr std::uint8_t kNetCtrlMultiQueue = 4;   // class
inline constexpr std::uint8_t kNetCtrlPairsSet = 0;     // command; le16
inline constexpr std::uint8_t kNetCtrlOffloads = 5;     // class
inline constexpr std::uint8_t kNetCtrlOffloadsSet = 0;  // command; le64

}  // namespace vmmd::devices
