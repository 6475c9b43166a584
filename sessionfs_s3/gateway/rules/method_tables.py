"""Every method of the runtime's schema, by what the gateway does with it and why. Data only; a security boundary.

Written by hand from the descriptions in ``api.schema.json`` of ``@github/copilot`` 1.0.102 and from what the runtime
was seen to do. Families share a prefix: ``"session.name": "get set"`` stands for ``session.name.get`` and
``session.name.set``; the empty prefix is for names without one. A method that stands nowhere here is unknown, and a
test names it when a new runtime brings it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Families = Mapping[str, str]

OWN: Final[Families] = {
    "": "connect ping",
    "sessionFs": "setProvider",
    "$": "cancelRequest",
}
"""About the connection itself, which ends at the gateway. ``$/cancelRequest`` is written with a slash, see there."""

GLOBAL: Final[Families] = {
    "agents": "getAvailableBuiltins getBuiltinDefinition getBuiltinListingDefinition getBuiltins "
    "customAgentInitialModelDecision",
    "auth": "getStatus",
    "commands": "list",
    "contentExclusion": "validatePolicies",
    "featureFlags": "listMetadata resolve",
    "instructions": "getInitPrompt",
    "managedSettings": "compose schema validate",
    "managedSettings.permissions": "evaluate",
    "mcp": "listBuiltinServerNames",
    "models": "getBuiltInCatalog list listTokenPriceUnits",
    "permissions": "evaluateManagedPolicy",
    "sandbox": "getDocsUrl",
    "sandbox.settings": "applyDefaults",
    "status": "get",
    "tools": "list",
}
"""What any runtime answers alike: facts of its version, the models of the operator's account, and pure functions."""

CATALOGUE: Final[Families] = {
    "session": "delete getForeground getLastId getMetadata list setForeground",
    "sessions": "bulkDelete checkInUse close delete enrichMetadata findByPrefix findByTaskId fork getBoardEntryCount "
    "getClientMetadata getEventFilePath getLastForContext getMetadata getPersistedRemoteSteerable getSizes list "
    "listNonEmptySessionIds pruneOld readPersistedEvents releaseLock",
}
"""What a runtime would answer from its own disk, or from all the sessions that it has open, whosever they are."""

SESSION: Final[Families] = {
    "session": "abort cancelAllBackgroundAgents create destroy detach getMessages interruptMainTurn log resume send "
    "sendAndWait sendMessages sendSystemNotification shutdown suspend",
    "session.agent": "deselect getCurrent list reload select setPrompt",
    "session.autopilotObjective": "getState",
    "session.canvas": "close list listOpen open",
    "session.canvas.action": "invoke",
    "session.canvas.provider": "register unregister",
    "session.commands": "enqueue execute finalizeInvocationEffect handlePendingCommand invoke list "
    "respondToQueuedCommand",
    "session.completions": "getTriggerCharacters request",
    "session.connectors": "connect continueConnection disconnect getAccount getCapabilities getStatus list reconcile "
    "reconcileForStartup reconnect refresh withdrawProjection",
    "session.contentExclusion": "checkPaths",
    "session.customizations": "reload",
    "session.diagnostics": "configure read",
    "session.eventLog": "read registerInterest releaseInterest tail",
    "session.extensions": "list reconcile reload sendAttachmentsToMessage",
    "session.fleet": "start",
    "session.gitHubAuth": "getStatus refreshCopilotUser setCredentials",
    "session.history": "abortManualCompaction cancelBackgroundCompaction clearContext compact listRewindPoints "
    "previewRewind rewind summarizeForHandoff truncate",
    "session.instructions": "getSources reload",
    "session.limitPrediction": "predict",
    "session.managedSettings": "get",
    "session.mcp": "cancelSamplingExecution configureGitHub disable enable executeSampling isServerRunning list "
    "listConfigured listTools moveLoadingToBackground registerExternalClient reload reloadWithConfig removeGitHub "
    "restartServer setConnectedIdeInfo setEnvValueMode startServer stopServer unregisterExternalClient",
    "session.mcp.apps": "callTool diagnose getHostContext listTools readResource setHostContext",
    "session.mcp.headers": "handlePendingHeadersRefreshRequest",
    "session.mcp.oauth": "authenticationStateChanged cancelLogin complete handlePendingRequest login prepareLogin "
    "probe respond",
    "session.mcp.prompts": "get list",
    "session.mcp.resources": "list listTemplates read",
    "session.metadata": "activity contextInfo getClientMetadata getContextAttribution getContextHeaviestMessages "
    "isProcessing recomputeContextTokens recordContextChange setWorkingDirectory snapshot updateClientMetadata",
    "session.mode": "get set",
    "session.model": "applyStartupOverlay clearStartupSeed getCurrent getReasoningSummaries list setAllowedModels "
    "setReasoningEffort switchAutoTier switchTo",
    "session.name": "get set setAuto",
    "session.options": "update",
    "session.permissions": "configure getMode handlePendingPermissionRequest modifyRules notifyPromptShown "
    "pendingRequests resetSessionApprovals setApproveAll setMode setRequired",
    "session.permissions.folderTrust": "isTrusted",
    "session.permissions.locations": "apply resolve",
    "session.permissions.paths": "add isPathWithinAllowedDirectories isPathWithinWorkspace list updatePrimary",
    "session.permissions.urls": "setUnrestrictedMode",
    "session.plan": "delete read readSqlTodos readSqlTodosWithDependencies update",
    "session.plugins": "list reload",
    "session.plugins.marketplaces": "browse list",
    "session.provider": "add getEndpoint sync withdraw",
    "session.providers": "discover getCatalog getStatus",
    "session.providers.models": "list prepareConfiguration",
    "session.queue": "appendSteering beginDeferredIdleDrain clear consumeSystemNotifications deferSessionIdle "
    "duplicateAt enqueueResumePending finishDeferredIdleDrain hasPending insertAt moveItem pendingItems process "
    "removeAt removeMostRecent sendNow setDrainPaused snapshot updateText withdrawMessage",
    "session.quota": "get refresh takeWarnings",
    "session.remote": "notifySteerableChanged",
    "session.sandbox": "disableForSession getEnforcementStatus grantPathForRequest",
    "session.schedule": "add addAt addCron addSelfPaced hasSelfPaced hydrate list rearmSelfPaced stop",
    "session.settings": "evaluatePredicate snapshot",
    "session.skills": "disable enable ensureLoaded getInvoked list reload",
    "session.tasks": "cancel getCurrentPromotable getProgress list promoteCurrentToBackground promoteToBackground "
    "readOutput refresh register remove sendMessage startAgent update waitForPending",
    "session.telemetry": "getEngagementId setFeatureOverrides",
    "session.tools": "execute getBuiltinDescriptors getCurrentMetadata handlePendingToolCall initializeAndValidate "
    "listPendingRequests set taskCompleteEventData updateSubagentSettings",
    "session.ui": "elicitation ephemeralQuery handleHumanAskUser handleHumanExitPlanMode handleHumanUserInput "
    "handlePendingAutoModeSwitch handlePendingElicitation handlePendingExitPlanMode handlePendingSampling "
    "handlePendingSessionLimitsExhausted handlePendingUserInput registerDirectAutoModeSwitchHandler "
    "unregisterDirectAutoModeSwitchHandler",
    "session.usage": "getMetrics setCodeChanges",
    "session.visibility": "get set",
    "session.workflow": "agent cancel getRun getRunDetail getRunProgress listRuns log pause pauseAtCheckpoint resume "
    "resumeFromTool run runFromTool",
    "session.workflow.journal": "get put",
    "session.workspaces": "addSummary autopilotObjectiveExists createDirectory createFile deleteAutopilotObjective "
    "diff ensure getWorkspace listCheckpoints listFiles readAutopilotObjective readCheckpoint readFile removePath "
    "renamePath saveLargePaste statFile truncateSummaries updateMetadata writeAutopilotObjective",
    "sessions": "loadDeferredRepoHooks open reloadPluginHooks save",
}
"""About one session, which the parameters name; it goes to the runtime that has it, if it is the tenant's."""

PROCESS: Final[Mapping[str, Families]] = {
    "it ends, or is about, the whole runtime": {
        "runtime": "shutdown",
        "agentRegistry": "spawn",
        "secrets": "addFilterValues",
        "featureFlags": "resolveStartupGates",
    },
    "it takes requests of every session of the runtime": {
        "": "registerExtensionLaunchProvider",
        "llmInference": "httpResponseChunk httpResponseStart setProvider",
    },
    "it is about the accounts that are signed in to the runtime": {
        "account": "describeAuthInfo getAllUsers getCurrentAuth getGistSupport getQuota getTokenEnvVar getWebUrl "
        "login logout",
        "connectors": "getAccounts getCapabilities list refresh",
        "environments": "delete get list",
        "gitHubOwners": "cancel list nextRequestId",
        "session.accounts": "enumerate get set",
        "session.accounts.login": "advance begin cancel",
        "session.gitHubAuth": "getAllAuthAvailable getCurrentAuthInfo lastAuthErrors login logout logoutUser "
        "switchToAuth",
    },
    "it reads or writes settings that every session of the runtime shares": {
        "globalState": "load loadForConfigDir writeKey",
        "managedSettings": "applyControls clearCache ingest loadRemoteControl parseClientValue read readDevice resolve "
        "resolveBypassDisableTransition resolveDeviceForceLoginOrgsGate resolveEffectiveValue resolveStartupPolicy "
        "retainPolicy",
        "permissions.folderTrust": "checkTrust",
        "permissions.locations": "cleanupOrphaned",
        "persistence": "writeRawJsonLocked",
        "repo.settings": "edit readRaw writeAll writeKey",
        "session.permissions.folderTrust": "addTrusted",
        "session.permissions.locations": "addToolApproval",
        "user.settings": "applyTopKey buildRuntime diagnoseProblems edit get getPath getPaths getUnknownKeysWarning "
        "listGovernanceKeys loadAndMergeRepo loadForConfigDir loadForEdit loadRepo loadWithWarning mergeManagedAndUser "
        "mergeRepoValue migrateObsoleteOnDisk migrateStaffLogLevelOnce migrateStaffUpdateChannelOnce normalize "
        "resetStaffModelSelectionOnce set setHookDisabled update validate writeAll",
    },
    "it installs, removes or lists what every session of the runtime shares": {
        "agents": "discover getDiscoveryPaths",
        "azureMl": "acquireFamily cancel catalog discard download latest releaseFamily resolve status",
        "catalog": "getGeneratedFeed getSavedFeed planInstallFromReference search select",
        "extensions": "disable discover enable",
        "hooks": "discover",
        "instructions": "clearCache discover discoverRepoSources getDiscoveryPaths",
        "mcp": "applyInstall applyUninstall discover planInstall planUninstall prepareInstall shouldExcludeGitHubTools",
        "mcp.config": "add disable enable list reload remove update",
        "mcp.installations": "cancel list recover status",
        "mcp.oauth": "checkDcrSupport fetchProtectedResourceMetadata isMicrosoftAuthorizationServer staticClientConfig",
        "mcp.registry": "allocateRequestId cancel search",
        "plugins": "applyInstall disable enable install list planInstall uninstall update updateAll",
        "plugins.builtin": "set",
        "plugins.marketplaces": "add browse list refresh remove",
        "session.extensions": "disable enable",
        "session.plugins": "disable enable install retryManaged uninstall update",
        "session.plugins.marketplaces": "add refresh remove",
        "sessions": "configureSessionExtensions setAdditionalPlugins",
        "skills": "applyInstall applyUninstall discover getDiscoveryPaths planInstall planUninstall",
        "skills.config": "setDisabledSkills setSkillDisabled",
        "skills.installations": "cancel list recover setEnabled status",
    },
    "it publishes sessions of the runtime, or brings in foreign ones, past the gateway": {
        "host": "createSession dispose getConfiguration getEnvironmentCredentials listSessions publishSession ready "
        "releaseSession start unpublishSession",
        "session.remote": "disable enable",
        "sessions": "connect getRemoteControlStatus setRemoteControlSteering startRemoteControl stopRemoteControl "
        "transferRemoteControl",
    },
    "it reaches files, processes or secrets of the runtime's host, which all its sessions share": {
        "git": "currentBranchRemote reposFromRemotes workingDirectoryContext",
        "gitHubRepository": "atPath",
        "sandbox": "checkEnforcementCommand checkPlatformSupport checkWindowsHostLoopbackSupport getHostSupport "
        "filterPickerCandidates getUnsupportedMessage getUnsupportedSettingDisabledNotice getUnsupportedStartupNotice "
        "preparePickerPolicy resolveFlooredConfig resolveForOptional",
        "sandbox.proxyCa": "checkInstallationSupport checkRelevance create getStatus remove rotate trust",
        "sandbox.proxySecret": "delete get getLocation save",
        "session.debug": "collectLogs",
        "session.lsp": "initialize",
        "session.sandbox": "getCredentialSuggestions",
        "session.shell": "cancelUserRequested exec executeUserRequested kill",
        "sessions": "createWorkspace loadWorkspace updateWorkspaceFields",
    },
}
"""By the reason: what changes or shows something that the tenants of one runtime share."""


def spelled(families: Families) -> frozenset[str]:
    """Return the methods' full names."""
    names: set[str] = set()
    for family, members in families.items():
        separator = "/" if family == "$" else "."
        names.update(f"{family}{separator}{member}" if family else member for member in members.split())
    return frozenset(names)
