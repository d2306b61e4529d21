"""The version that we tell the agent and the AWS CLI, which both look at it."""

# The agent gives this one multiplexing, no keep-alive of smux, and no advice to update; the AWS CLI
# passes it the response by environment variable and does not call it outdated. It names the feature
# level of the reference client, not our own version.
CLIENT_VERSION = "1.2.900.0"
