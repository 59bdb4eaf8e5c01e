#include "api/net_fds.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/findings.h"
#include "api/json_reader.h"

namespace vmmd::api {

namespace {

std::string id_of(const NetConfig& net) {
  return net.pci.id.value_or("");
}

std::size_t total(const std::vector<NetFds>& places) {
  std::size_t sum = 0;
  for (const NetFds& net : places) sum += net.fds.size();
  return sum;
}

const NetFds* find(const std::vector<NetFds>& places, const std::string& id) {
  const auto found = std::find_if(places.begin(), places.end(), [&](const NetFds& n) { return n.id == id; });
  return found == places.end() ? nullptr : &*found;
}

std::string name_of(const NetFds& net) {
  return net.id.empty() ? "a network" : fmt::format("network \"{}\"", net.id);
}

/// "network \"lan\" takes 1, \"wan\" 2"
std::string places_text(const std::vector<NetFds>& places) {
  std::string text;
  for (const NetFds& net : places) {
    fmt::format_to(std::back_inserter(text), "{} \"{}\" {}{}", text.empty() ? "network" : ",", net.id,
                   text.empty() ? "takes " : "", net.fds.size());
  }
  return text;
}

}  // namespace

std::vector<NetFds> fd_places(const VmConfig& config) {
  std::vector<NetFds> places;
  for (const NetConfig& net : config.net) {
    if (!net.fds.empty()) places.push_back({id_of(net), net.fds});
  }
  return places;
}

// What is wrong with the overrides is not said here, but by restored_config().
std::vector<NetFds> fd_places(const RestoreRequest& request) {
  std::vector<NetFds> places = request.net_fds;
  if (request.overrides.empty()) return places;
  const auto patch = JsonDocument::parse(request.overrides);
  if (!patch || !patch->root().is_object() || !patch->root().contains("net")) return places;
  for (const auto& net : patch->root()["net"]) {
    if (!net.is_object() || !net.contains("id") || !net["id"].is_string() || !net.contains("fds")) continue;
    const auto& numbers = net["fds"];
    if (!numbers.is_array() || numbers.empty() || numbers.size() > kMaxPassedFds) continue;
    NetFds& place = places.emplace_back(NetFds{net["id"].template get<std::string>(), {}});
    for (const auto& number : numbers)
      place.fds.push_back(number.is_number_integer() ? number.template get<std::int32_t>() : -1);
  }
  return places;
}

Result<FdsById> share_out(const std::vector<NetFds>& places, PassedFds fds) {
  if (const std::size_t wanted = total(places); wanted != fds.size()) {
    if (wanted == 0) {
      return fail(ErrorCode::BadRequest,
                  "{} descriptors came with the request, and no network takes any: see fds and net_fds",
                  fds.size());
    }
    return fail(ErrorCode::BadRequest,
                "{} came with the request, and {}: send open taps by SCM_RIGHTS, as vmm-remote does with "
                "those that it inherits",
                fds.empty()       ? "no descriptor"
                : fds.size() == 1 ? "1 descriptor"
                                  : fmt::format("{} descriptors", fds.size()),
                places_text(places));
  }
  FdsById by_id;
  auto next = std::make_move_iterator(fds.begin());
  for (const NetFds& net : places) {
    const auto end = next + static_cast<std::ptrdiff_t>(net.fds.size());
    if (!by_id.emplace(net.id, PassedFds(next, end)).second) {
      return fail(ErrorCode::BadRequest,
                  "network \"{}\" gets descriptors twice: name it once in net_fds and overrides", net.id);
    }
    next = end;
  }
  return by_id;
}

Result<PassedFds> inherited_fds(const std::vector<NetFds>& places) {
  constexpr std::int32_t kFirst = 3;  // below are standard input, output and error
  if (const std::size_t wanted = total(places); wanted > kMaxPassedFds)
    return fail(ErrorCode::BadRequest, "{} descriptors are more than {}", wanted, kMaxPassedFds);
  PassedFds fds;
  std::set<std::int32_t> seen;
  for (const NetFds& net : places) {
    for (const std::int32_t number : net.fds) {
      if (number < kFirst) {
        return fail(ErrorCode::BadRequest,
                    "{}: {} is not the number of a descriptor that was inherited, which is {} or more",
                    name_of(net), number, kFirst);
      }
      if (!seen.insert(number).second)
        return fail(ErrorCode::Conflict, "{}: descriptor {} is given twice", name_of(net), number);
      UniqueFd copy(::fcntl(number, F_DUPFD_CLOEXEC, 0));
      if (!copy) {
        return fail_errno(ErrorCode::BadRequest, errno, "{}: descriptor {} was not inherited", name_of(net),
                          number);
      }
      fds.push_back(std::move(copy));
    }
  }
  return fds;
}

Status replace_taps(VmConfig& config, const std::vector<NetFds>& places) {
  Findings findings;
  for (const NetFds& place : places) {
    const auto net = std::find_if(config.net.begin(), config.net.end(),
                                  [&](const NetConfig& n) { return id_of(n) == place.id; });
    if (net == config.net.end()) {
      findings.add(ErrorCode::BadRequest, "/net_fds", "the snapshot has no network \"{}\"", place.id);
      continue;
    }
    if (2 * place.fds.size() != net->num_queues) {
      findings.add(ErrorCode::BadRequest, "/net_fds",
                   "network \"{}\" takes {}, one for each queue pair, not {}", place.id, net->num_queues / 2U,
                   place.fds.size());
      continue;
    }
    net->tap.reset();
    net->passt.reset();
    net->ip.reset();
    net->mask.reset();
    net->host_mac.reset();
    net->fds = place.fds;
  }
  return std::move(findings).status();
}

std::vector<std::string> networks_without_taps(const VmConfig& config, const std::vector<NetFds>& places) {
  std::vector<std::string> ids;
  for (const NetConfig& net : config.net) {
    if (!net.fds.empty() && find(places, id_of(net)) == nullptr) ids.push_back(id_of(net));
  }
  return ids;
}

void forget_fd_numbers(VmConfig& config) {
  for (NetConfig& net : config.net) std::fill(net.fds.begin(), net.fds.end(), -1);
}

}  // namespace vmmd::api
