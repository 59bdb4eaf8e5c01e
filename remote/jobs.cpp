#include "remote/jobs.h"

#include "remote/requests.h"
#include "remote/session.h"

namespace vmmd::remote {

Status run_snapshot(Session& session, const Command& command, const Arguments& arguments) {
  VMMD_ASSIGN(const std::string body, command.body(arguments));
  VMMD_ASSIGN(const api::Response response, session.client().request(command.verb, command.endpoint, body));
  session.set_result(response.body);
  const bool ours = arguments.has("--mode") || arguments.has("--pause") || arguments.has("--resume") ||
                    arguments.has("--label");
  if (ours) session.print(response.body);
  return {};
}

}  // namespace vmmd::remote
