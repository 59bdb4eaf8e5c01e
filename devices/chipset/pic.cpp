#include "devices/chipset/pic.h"

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// Intel 8259A datasheet (231468).
constexpr std::uint8_t kIcw1 = 1U << 4;
constexpr std::uint8_t kIcw1WantsIcw4 = 1U << 0;
constexpr std::uint8_t kIcw1Single = 1U << 1;
constexpr std::uint8_t kIcw2Vector = 0xf8;
constexpr std::uint8_t kIcw4AutoEoi = 1U << 1;
constexpr std::uint8_t kIcw4FullyNested = 1U << 4;
constexpr std::uint8_t kOcw3 = 1U << 3;
constexpr std::uint8_t kOcw3ReadInService = 1U << 0;
constexpr std::uint8_t kOcw3Read = 1U << 1;
constexpr std::uint8_t kOcw3Poll = 1U << 2;
constexpr std::uint8_t kOcw3SpecialMask = 1U << 5;
constexpr std::uint8_t kOcw3SetSpecialMask = 1U << 6;
constexpr std::uint8_t kPolled = 1U << 7;
constexpr unsigned kInputMask = 7;
constexpr unsigned kSpurious = 7;

// OCW2's R, SL and EOI bits.
constexpr unsigned kOcw2Shift = 5;
constexpr unsigned kRotateInAutoEoiOff = 0;
constexpr unsigned kEoi = 1;
constexpr unsigned kSpecificEoi = 3;
constexpr unsigned kRotateInAutoEoiOn = 4;
constexpr unsigned kRotateOnEoi = 5;
constexpr unsigned kSetPriority = 6;
constexpr unsigned kRotateOnSpecificEoi = 7;

// Which inputs may be level-triggered: not the timer, keyboard, cascade, RTC and FPU (PIIX4 datasheet, 4.2).
constexpr std::array<std::uint8_t, 2> kLevelWritable = {0xf8, 0xde};

constexpr std::uint8_t kMasterVector = 0x08;
constexpr std::uint8_t kSlaveVector = 0x70;

constexpr std::uint8_t bit(unsigned input) {
  return static_cast<std::uint8_t>(1U << input);
}

constexpr std::uint8_t with_bits(std::uint8_t byte, std::uint8_t bits, bool set) {
  return static_cast<std::uint8_t>(set ? byte | bits : byte & ~bits);
}

}  // namespace

Pic::State Pic::power_on() {
  State state;
  state[0].vector = kMasterVector;
  state[1].vector = kSlaveVector;
  return state;
}

Pic::Pic(InterruptLine& intr) : intr_(intr) {
  for (unsigned chip = 0; chip < ports_.size(); ++chip) {
    ports_.at(chip).owner = this;
    ports_.at(chip).chip = chip;
  }
  for (unsigned irq = 0; irq < kInputs; ++irq) {
    lines_.at(irq).owner = this;
    lines_.at(irq).irq = irq;
  }
}

int Pic::highest(const Chip& chip, std::uint8_t bits) {
  for (unsigned i = 1; i <= 8; ++i) {
    const unsigned input = (chip.lowest + i) & kInputMask;
    if ((bits & bit(input)) != 0) return static_cast<int>(i);
  }
  return 9;  // lower than every input
}

int Pic::pending(unsigned index) const {
  const Chip& chip = state_.at(index);
  if (chip.next_icw != 0) return -1;
  const int wanted = highest(chip, chip.requests & static_cast<std::uint8_t>(~chip.mask));
  if (wanted > 8) return -1;
  std::uint8_t serving = chip.in_service;
  // Masked inputs no longer hold up lower ones; in the special fully nested mode, the slave not itself.
  if (chip.special_mask) serving &= static_cast<std::uint8_t>(~chip.mask);
  if (chip.fully_nested && index == 0) serving &= static_cast<std::uint8_t>(~bit(kCascade));
  if (wanted >= highest(chip, serving)) return -1;
  return static_cast<int>((chip.lowest + static_cast<unsigned>(wanted)) & kInputMask);
}

void Pic::set_chip_input(Chip& chip, unsigned input, bool high) {
  const bool rising = high && (chip.lines & bit(input)) == 0;
  chip.lines = with_bits(chip.lines, bit(input), high);
  if ((chip.level & bit(input)) != 0) {
    chip.requests = with_bits(chip.requests, bit(input), high);
  } else if (rising) {
    chip.requests |= bit(input);
  }
}

void Pic::set_input(unsigned irq, bool high) {
  if (irq == kCascade) return;
  const std::lock_guard lock(mutex_);
  set_chip_input(state_.at(irq / 8), irq % 8, high);
  drive();
}

void Pic::drive() {
  set_chip_input(state_[0], kCascade, pending(1) >= 0);
  const bool output = pending(0) >= 0;
  if (output == output_) return;
  output_ = output;
  intr_.set_level(output);
}

void Pic::accept(Chip& chip, unsigned input) {
  if ((chip.level & bit(input)) == 0) chip.requests &= static_cast<std::uint8_t>(~bit(input));
  if (!chip.auto_eoi) {
    chip.in_service |= bit(input);
  } else if (chip.rotate_on_auto_eoi) {
    chip.lowest = static_cast<std::uint8_t>(input);
  }
}

std::uint8_t Pic::take(unsigned index) {
  Chip& chip = state_.at(index);
  const int input = pending(index);
  if (input < 0) {
    ++spurious_;
    return static_cast<std::uint8_t>(chip.vector + kSpurious);
  }
  accept(chip, static_cast<unsigned>(input));
  if (index != 0 || input != static_cast<int>(kCascade))
    return static_cast<std::uint8_t>(chip.vector + input);
  const std::uint8_t vector = take(1);
  // The slave's next interrupt is no edge where its output stays high.
  if (pending(1) >= 0) state_[0].requests |= bit(kCascade);
  return vector;
}

std::uint8_t Pic::acknowledge() {
  const std::lock_guard lock(mutex_);
  ++acknowledged_;
  const std::uint8_t vector = take(0);
  drive();
  return vector;
}

void Pic::start(Chip& chip, std::uint8_t icw1) {
  Chip fresh;
  fresh.lines = chip.lines;
  fresh.level = chip.level;
  fresh.requests = chip.lines & chip.level;  // edges are forgotten
  fresh.mask = 0;
  fresh.vector = chip.vector;
  fresh.next_icw = 2;
  fresh.wants_icw4 = (icw1 & kIcw1WantsIcw4) != 0;
  fresh.single = (icw1 & kIcw1Single) != 0;
  chip = fresh;
}

void Pic::write_icw(Chip& chip, std::uint8_t value) {
  const std::uint8_t after_icw3 = chip.wants_icw4 ? 4 : 0;
  switch (chip.next_icw) {
    case 2:
      chip.vector = value & kIcw2Vector;
      chip.next_icw = chip.single ? after_icw3 : std::uint8_t{3};
      return;
    case 3:  // the cascade is wired as it is
      chip.next_icw = after_icw3;
      return;
    default:
      chip.auto_eoi = (value & kIcw4AutoEoi) != 0;
      chip.fully_nested = (value & kIcw4FullyNested) != 0;
      chip.next_icw = 0;
      return;
  }
}

void Pic::write_ocw2(Chip& chip, std::uint8_t value) {
  const unsigned command = value >> kOcw2Shift;
  auto input = static_cast<std::uint8_t>(value & kInputMask);
  switch (command) {
    case kRotateInAutoEoiOff:
    case kRotateInAutoEoiOn:
      chip.rotate_on_auto_eoi = command == kRotateInAutoEoiOn;
      return;
    case kEoi:
    case kRotateOnEoi: {
      // In special mask mode a masked input is not ended this way.
      const std::uint8_t candidates =
          chip.special_mask ? chip.in_service & static_cast<std::uint8_t>(~chip.mask) : chip.in_service;
      const int order = highest(chip, candidates);
      if (order > 8) return;
      input = static_cast<std::uint8_t>((chip.lowest + static_cast<unsigned>(order)) & kInputMask);
      break;
    }
    case kSetPriority:
      chip.lowest = input;
      return;
    case kSpecificEoi:
    case kRotateOnSpecificEoi:
      break;
    default:
      return;
  }
  chip.in_service &= static_cast<std::uint8_t>(~bit(input));
  if (command == kRotateOnEoi || command == kRotateOnSpecificEoi) chip.lowest = input;
}

void Pic::write_ocw3(Chip& chip, std::uint8_t value) {
  chip.poll = (value & kOcw3Poll) != 0;
  if ((value & kOcw3Read) != 0) chip.read_in_service = (value & kOcw3ReadInService) != 0;
  if ((value & kOcw3SetSpecialMask) != 0) chip.special_mask = (value & kOcw3SpecialMask) != 0;
}

std::uint64_t Pic::Ports::read(std::uint64_t offset, unsigned width) {
  if (offset >= kPorts || width != 1) return all_ones(width);
  const std::lock_guard lock(owner->mutex_);
  Chip& self = owner->state_.at(chip);
  if (self.poll) {
    self.poll = false;
    const int input = owner->pending(chip);
    if (input < 0) return 0;
    owner->accept(self, static_cast<unsigned>(input));
    owner->drive();
    return kPolled | static_cast<unsigned>(input);
  }
  if (offset == 1) return self.mask;
  return self.read_in_service ? self.in_service : self.requests;
}

void Pic::Ports::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= kPorts || width != 1) return;
  const auto byte = static_cast<std::uint8_t>(value);
  const std::lock_guard lock(owner->mutex_);
  Chip& self = owner->state_.at(chip);
  if (offset == 0) {
    if ((byte & kIcw1) != 0) {
      owner->start(self, byte);
    } else if ((byte & kOcw3) != 0) {
      owner->write_ocw3(self, byte);
    } else {
      owner->write_ocw2(self, byte);
    }
  } else if (self.next_icw != 0) {
    owner->write_icw(self, byte);
  } else {
    self.mask = byte;
  }
  owner->drive();
}

std::uint64_t Pic::Elcr::read(std::uint64_t offset, unsigned width) {
  if (offset >= kPorts || width != 1) return all_ones(width);
  const std::lock_guard lock(owner_.mutex_);
  return owner_.state_.at(offset).level;
}

void Pic::Elcr::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= kPorts || width != 1) return;
  const std::lock_guard lock(owner_.mutex_);
  Chip& chip = owner_.state_.at(offset);
  chip.level = static_cast<std::uint8_t>(value & kLevelWritable.at(offset));
  // A level input asks for as long as it is high.
  chip.requests = static_cast<std::uint8_t>((chip.requests & ~chip.level) | (chip.lines & chip.level));
  owner_.drive();
}

Result<UnitState> Pic::save() const {
  const std::lock_guard lock(mutex_);
  state::Pic message;
  for (const Chip& chip : state_) {
    const auto& [lines, requests, in_service, mask, level, vector, lowest, next_icw, wants_icw4, single,
                 auto_eoi, fully_nested, rotate_on_auto_eoi, special_mask, read_in_service, poll] = chip;
    state::Pic::Chip& saved = *message.add_chips();
    saved.set_lines(lines);
    saved.set_requests(requests);
    saved.set_in_service(in_service);
    saved.set_mask(mask);
    saved.set_level(level);
    saved.set_vector(vector);
    saved.set_lowest(lowest);
    saved.set_next_icw(next_icw);
    saved.set_wants_icw4(wants_icw4);
    saved.set_single(single);
    saved.set_auto_eoi(auto_eoi);
    saved.set_fully_nested(fully_nested);
    saved.set_rotate_on_auto_eoi(rotate_on_auto_eoi);
    saved.set_special_mask(special_mask);
    saved.set_read_in_service(read_in_service);
    saved.set_poll(poll);
  }
  return pack_state(message);
}

Status Pic::restore(const UnitState& state) {
  state::Pic message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  State next;
  if (message.chips_size() != static_cast<int>(next.size())) {
    return fail(ErrorCode::BadRequest, "unit {}: {} controllers instead of {}", unit_name(),
                message.chips_size(), next.size());
  }
  for (unsigned i = 0; i < next.size(); ++i) {
    const state::Pic::Chip& saved = message.chips(static_cast<int>(i));
    for (const std::uint32_t byte :
         {saved.lines(), saved.requests(), saved.in_service(), saved.mask(), saved.level(), saved.vector()}) {
      if (byte > 0xff)
        return fail(ErrorCode::BadRequest, "unit {}: register value {:#x} is not a byte", unit_name(), byte);
    }
    const std::uint32_t icw = saved.next_icw();
    if (saved.lowest() > kInputMask || icw == 1 || icw > 4 ||
        (saved.vector() & ~std::uint32_t{kIcw2Vector}) != 0 ||
        (saved.level() & ~std::uint32_t{kLevelWritable.at(i)}) != 0) {
      return fail(ErrorCode::BadRequest,
                  "unit {}: priority {}, initialization word {}, vector {:#x} or levels {:#x} are impossible",
                  unit_name(), saved.lowest(), icw, saved.vector(), saved.level());
    }
    auto& [lines, requests, in_service, mask, level, vector, lowest, next_icw, wants_icw4, single, auto_eoi,
           fully_nested, rotate_on_auto_eoi, special_mask, read_in_service, poll] = next.at(i);
    lines = static_cast<std::uint8_t>(saved.lines());
    requests = static_cast<std::uint8_t>(saved.requests());
    in_service = static_cast<std::uint8_t>(saved.in_service());
    mask = static_cast<std::uint8_t>(saved.mask());
    level = static_cast<std::uint8_t>(saved.level());
    vector = static_cast<std::uint8_t>(saved.vector());
    lowest = static_cast<std::uint8_t>(saved.lowest());
    next_icw = static_cast<std::uint8_t>(icw);
    wants_icw4 = saved.wants_icw4();
    single = saved.single();
    auto_eoi = saved.auto_eoi();
    fully_nested = saved.fully_nested();
    rotate_on_auto_eoi = saved.rotate_on_auto_eoi();
    special_mask = saved.special_mask();
    read_in_service = saved.read_in_service();
    poll = saved.poll();
  }
  const std::lock_guard lock(mutex_);
  state_ = next;
  drive();
  return {};
}

void Pic::reset() {
  const std::lock_guard lock(mutex_);
  state_ = power_on();
  drive();
}

std::map<std::string, std::int64_t> Pic::counters() const {
  const std::lock_guard lock(mutex_);
  return {{"acknowledged", acknowledged_}, {"spurious", spurious_}};
}

}  // namespace vmmd::devices
