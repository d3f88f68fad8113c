/** The only door of this room: speaks QMP and the guest agent's protocol over a unix socket. */
export { type Capabilities, isCapabilities, probeCapabilities } from './capabilities.ts';
export { type ConnectOptions, type ExecuteOptions, type QmpArguments, QmpClient } from './client.ts';
export type { Bound } from './deadline.ts';
export { QmpCommandError, QmpError, type QmpErrorCode, type QmpErrorDetails } from './errors.ts';
export type { EventListener } from './event-listener.ts';
export { type AgentConnectOptions, type FreezeStatus, GuestAgent } from './guest-agent.ts';
export { type FollowOptions, followJob, isOfJob, type JobStatus } from './job.ts';
export { isRecord, type QmpEvent, type QmpVersion } from './message.ts';
