{{- define "understory.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that the longest suffix of this chart still fits: into 52 of a StatefulSet (its pods have a label of 11 more). A release's name may have dots, a service's not. */}}
{{- define "understory.fullname" -}}
{{- $name := include "understory.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $full .Values.fullnameOverride | replace "." "-" | trunc 39 | trimSuffix "-" -}}
{{- end -}}

{{- define "understory.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* The labels of selectors: never changed. */}}
{{- define "understory.selectorLabels" -}}
app.kubernetes.io/name: {{ include "understory.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "understory.labels" -}}
{{ include "understory.selectorLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: understory
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: dict root, component, name, and labels and annotations where it has some of its own. */}}
{{- define "understory.metadata" -}}
name: {{ .name }}
namespace: {{ include "understory.namespace" .root }}
{{ include "understory.labelsAndAnnotations" . }}
{{- end -}}

{{/* metadata of a pod that a workload makes: dict root, component, values, and checksums where it has some. */}}
{{- define "understory.podMetadata" -}}
{{- include "understory.labelsAndAnnotations" (dict "root" .root "component" .component "labels" .values.podLabels "annotations" (merge (dict) (default dict .checksums) (default dict .values.podAnnotations))) -}}
{{- end -}}

{{/* What an object says of its own counts more than what all have in common. */}}
{{- define "understory.labelsAndAnnotations" -}}
labels:
  {{- merge (dict) (default dict .labels) (include "understory.labels" . | fromYaml) | toYaml | nindent 2 }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* dict root, image, tag: registry, repository, and the digest or the tag. */}}
{{- define "understory.image" -}}
{{- $registry := default .root.Values.global.imageRegistry .image.registry -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry .image.repository }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.tag | toString) -}}
{{- end -}}
{{- end -}}

{{- define "understory.ownImage" -}}
{{- include "understory.image" (dict "root" . "image" .Values.image "tag" (default .Chart.AppVersion .Values.image.tag)) -}}
{{- end -}}

{{- define "understory.imagePullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "understory.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "understory.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* dict root, component, values: where pods go. */}}
{{- define "understory.scheduling" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "understory.selectorLabels" . | nindent 14 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "understory.selectorLabels" . | nindent 8 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment by which a service reaches the object store. Nothing secret is in a command line. */}}
{{- define "understory.objectStoreEnv" -}}
{{- $store := .Values.objectStore -}}
{{- if eq $store.mode "bundled" }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ include "understory.fullname" . }}-object-store, key: accessKeyId } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ include "understory.fullname" . }}-object-store, key: secretAccessKey } }
{{- else }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ $store.external.existingSecret }}, key: {{ $store.external.accessKeyIdKey }} } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ $store.external.existingSecret }}, key: {{ $store.external.secretAccessKeyKey }} } }
{{- end }}
{{- end -}}

{{- define "understory.objectStoreUrl" -}}
{{- $store := .Values.objectStore -}}
{{- if eq $store.mode "bundled" -}}
s3://{{ $store.bundled.bucket }}/understory?endpoint=http://{{ include "understory.fullname" . }}-object-store.{{ include "understory.namespace" . }}.svc:9000
{{- else -}}
{{- $external := $store.external -}}
s3://{{ $external.bucket }}{{ with $external.prefix }}/{{ . }}{{ end }}?region={{ $external.region }}{{ with $external.endpoint }}&endpoint={{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* For those that cannot begin without it: they make the bucket of the bundled store. */}}
{{- define "understory.ownObjectStoreUrl" -}}
{{ include "understory.objectStoreUrl" . }}{{ if eq .Values.objectStore.mode "bundled" }}&create=bucket{{ end }}
{{- end -}}

{{- define "understory.controlPlaneAddress" -}}
{{ include "understory.fullname" . }}-control-plane.{{ include "understory.namespace" . }}.svc:{{ .Values.controlPlane.service.port }}
{{- end -}}

{{- define "understory.brokerPrefix" -}}
{{- default (printf "%s.%s" (include "understory.namespace" .) (include "understory.fullname" .)) .Values.broker.external.prefix -}}
{{- end -}}

{{/* dict root, variable: the broker's URL as an environment variable, with its password where it has one. */}}
{{- define "understory.brokerEnv" -}}
{{- $broker := .root.Values.broker -}}
{{- $secret := eq $broker.mode "external" | ternary $broker.external.existingSecret "" -}}
{{- if eq $broker.mode "bundled" }}
{{ include "understory.bundledRedisPassword" .root }}
{{- else if $secret }}
- name: REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: {{ $broker.external.passwordKey }} } }
{{- end }}
- name: {{ .variable }}
  {{- if eq $broker.mode "embedded" }}
  value: {{ .embedded }}
  {{- else if eq $broker.mode "bundled" }}
  value: redis://:$(REDIS_PASSWORD)@{{ include "understory.fullname" .root }}-redis.{{ include "understory.namespace" .root }}.svc:6379
  {{- else }}
  value: {{ $broker.external.tls | ternary "rediss" "redis" }}://{{ if $secret }}:$(REDIS_PASSWORD)@{{ end }}{{ $broker.external.host }}:{{ $broker.external.port }}?prefix={{ include "understory.brokerPrefix" .root }}
  {{- end }}
{{- end -}}

{{- define "understory.bundledRedisPassword" -}}
- name: REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "understory.fullname" . }}-redis, key: password } }
{{- end -}}

{{- define "understory.tokenSecret" -}}
{{- default (printf "%s-token" (include "understory.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "understory.tlsSecret" -}}
{{- if .Values.tls.enabled -}}
{{- default (printf "%s-tls" (include "understory.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* What every service and compute gets: security, and where telemetry goes. */}}
{{- define "understory.commonEnv" -}}
- name: UNDERSTORY_TOKEN
  valueFrom: { secretKeyRef: { name: {{ include "understory.tokenSecret" . }}, key: {{ .Values.auth.tokenKey }} } }
{{- if .Values.tls.enabled }}
- { name: UNDERSTORY_TLS_CERT, value: /etc/understory/tls/tls.crt }
- { name: UNDERSTORY_TLS_KEY, value: /etc/understory/tls/tls.key }
- { name: UNDERSTORY_TLS_CA, value: /etc/understory/tls/ca.crt }
- { name: UNDERSTORY_TLS_NAME, value: {{ .Values.tls.serverName | quote }} }
{{- else }}
- { name: UNDERSTORY_INSECURE, value: "yes" }
{{- end }}
{{- with .Values.telemetry.otlp }}
{{- if .endpoint }}
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }} }
- { name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }} }
- { name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio }
- { name: OTEL_TRACES_SAMPLER_ARG, value: {{ .tracesShare | quote }} }
- { name: OTEL_METRIC_EXPORT_INTERVAL, value: {{ mul 1000 (int .metricsIntervalSeconds) | quote }} }
{{- with .headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: { secretKeyRef: { name: {{ . }}, key: headers } }
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How a PodMonitor's pod and a ServiceMonitor's service are asked. */}}
{{- define "understory.monitorEndpoint" -}}
- port: metrics
  path: /metrics
  interval: {{ .interval }}
  {{- with .relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "understory.tlsMount" -}}
{{- if .Values.tls.enabled }}
- { name: tls, mountPath: /etc/understory/tls, readOnly: true }
{{- end }}
{{- end -}}

{{- define "understory.tlsVolume" -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret: { secretName: {{ include "understory.tlsSecret" . }}, defaultMode: 0440 }
{{- end }}
{{- end -}}

{{- define "understory.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-control-plane" (include "understory.fullname" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* dict values, path, keys, reason: refuses the first of the keys that is set. */}}
{{- define "understory.refuseSet" -}}
{{- range $key := .keys -}}
{{- if get $.values $key -}}
{{- fail (printf "%s.%s is set, but %s" $.path $key $.reason) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* dict values, path, keys, reason: refuses the first of the keys that is empty. */}}
{{- define "understory.refuseEmpty" -}}
{{- range $key := .keys -}}
{{- if not (get $.values $key) -}}
{{- fail (printf "%s.%s is empty, but %s" $.path $key $.reason) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
dict root, component, path, persistence: the size of claims that are there cannot be changed by their StatefulSet. Only of
the same unit: Kubernetes writes 1024Mi as 1Gi.
*/}}
{{- define "understory.refuseResize" -}}
{{- $name := printf "%s-%s" (include "understory.fullname" .root) .component -}}
{{- $known := lookup "apps/v1" "StatefulSet" (include "understory.namespace" .root) $name -}}
{{- range (dig "spec" "volumeClaimTemplates" list (default dict $known)) -}}
{{- $size := dig "spec" "resources" "requests" "storage" "" . -}}
{{- if and (ne $size $.persistence.size) (regexMatch (printf "^[0-9]+%s$" (regexFind "[A-Za-z]+$" $size)) $.persistence.size) -}}
{{- fail (printf "%s.persistence.size is %s, but the claims have %s, and Kubernetes lets no StatefulSet change that. Enlarge the claims and delete the StatefulSet alone first: kubectl -n %s delete statefulset %s --cascade=orphan (docs/kubernetes.md, \"A larger volume\")" $.path $.persistence.size $size (include "understory.namespace" $.root) $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
dict root, path, name, keys: a secret that is named must be there, because a pod without it waits in silence. Asked only where
there is a cluster, and not where extraManifests may bring it.
*/}}
{{- define "understory.requireSecret" -}}
{{- $namespace := include "understory.namespace" .root -}}
{{- if and .name (not .root.Values.extraManifests) (lookup "v1" "Secret" $namespace "") -}}
{{- $known := lookup "v1" "Secret" $namespace .name -}}
{{- if not $known -}}
{{- fail (printf "%s is %s, but there is no such secret: make it before, in namespace %s and with %s" .path .name $namespace (join " and " .keys)) -}}
{{- end -}}
{{- range $key := .keys -}}
{{- if not (hasKey (default dict $known.data) $key) -}}
{{- fail (printf "%s is %s, but that secret of namespace %s has no %s: it has %s" $.path $.name $namespace $key (default dict $known.data | keys | sortAlpha | join ", " | default "nothing")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the schema cannot say: values that do nothing, or harm, together. */}}
{{- define "understory.validate" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "understory.fullname" .)) -}}
{{- fail (printf "fullnameOverride must be set: the release's name makes %q, and names of services begin with a letter" (include "understory.fullname" .)) -}}
{{- end -}}
{{- $replicas := int .Values.safekeeper.replicas -}}
{{- if eq (mod $replicas 2) 0 -}}
{{- fail (printf "safekeeper.replicas is %d: it must be 1 (for a trial) or an odd number from 3 on, because an even one survives no more losses than one fewer" $replicas) -}}
{{- end -}}
{{- include "understory.refuseResize" (dict "root" . "component" "safekeeper" "path" "safekeeper" "persistence" .Values.safekeeper.persistence) -}}
{{- include "understory.refuseResize" (dict "root" . "component" "pageserver" "path" "pageserver" "persistence" .Values.pageserver.persistence) -}}

{{- $store := .Values.objectStore -}}
{{- if eq $store.mode "external" -}}
{{- include "understory.refuseEmpty" (dict "values" $store.external "path" "objectStore.external" "keys" (list "bucket" "existingSecret") "reason" "objectStore.mode external needs it") -}}
{{- else -}}
{{- include "understory.refuseSet" (dict "values" $store.external "path" "objectStore.external" "keys" (list "endpoint" "bucket" "existingSecret") "reason" "objectStore.mode is bundled: set objectStore.mode to external") -}}
{{- include "understory.refuseResize" (dict "root" . "component" "object-store" "path" "objectStore.bundled" "persistence" $store.bundled.persistence) -}}
{{- end -}}

{{- $broker := .Values.broker -}}
{{- if eq $broker.mode "external" -}}
{{- include "understory.refuseEmpty" (dict "values" $broker.external "path" "broker.external" "keys" (list "host") "reason" "broker.mode external needs it") -}}
{{- else -}}
{{- include "understory.refuseSet" (dict "values" $broker.external "path" "broker.external" "keys" (list "host" "existingSecret" "tls") "reason" (printf "broker.mode is %s: set broker.mode to external" $broker.mode)) -}}
{{- end -}}
{{- if and (eq $broker.mode "embedded") (gt (int .Values.controlPlane.replicas) 1) -}}
{{- fail "broker.mode is embedded, which goes with controlPlane.replicas 1: the standby of a control plane has another broker" -}}
{{- end -}}

{{- $tls := .Values.tls -}}
{{- if not $tls.enabled -}}
{{- include "understory.refuseSet" (dict "values" $tls "path" "tls" "keys" (list "existingSecret") "reason" "tls.enabled is false: everything would be in the clear") -}}
{{- include "understory.refuseSet" (dict "values" $tls.certManager "path" "tls.certManager" "keys" (list "enabled") "reason" "tls.enabled is false: everything would be in the clear") -}}
{{- else if $tls.certManager.enabled -}}
{{- include "understory.refuseSet" (dict "values" $tls "path" "tls" "keys" (list "existingSecret") "reason" "tls.certManager.enabled is too: the certificate comes from one of them") -}}
{{- include "understory.refuseEmpty" (dict "values" $tls.certManager.issuerRef "path" "tls.certManager.issuerRef" "keys" (list "name") "reason" "tls.certManager.enabled needs it") -}}
{{- end -}}

{{- if not .Values.serviceAccount.create -}}
{{- include "understory.refuseEmpty" (dict "values" .Values.serviceAccount "path" "serviceAccount" "keys" (list "name") "reason" "serviceAccount.create is false: the namespace's default account would get the rights of the control plane") -}}
{{- end -}}

{{- range $monitor := list "podMonitor" "serviceMonitor" -}}
{{- if not $.Values.metrics.enabled -}}
{{- include "understory.refuseSet" (dict "values" (get $.Values.metrics $monitor) "path" (printf "metrics.%s" $monitor) "keys" (list "enabled") "reason" "metrics.enabled is false: there is nothing to collect") -}}
{{- end -}}
{{- end -}}
{{- if .Values.metrics.podMonitor.enabled -}}
{{- include "understory.refuseSet" (dict "values" .Values.metrics.serviceMonitor "path" "metrics.serviceMonitor" "keys" (list "enabled") "reason" "metrics.podMonitor.enabled is too: everything would be collected twice") -}}
{{- end -}}
{{- if not .Values.telemetry.otlp.endpoint -}}
{{- include "understory.refuseSet" (dict "values" .Values.telemetry.otlp "path" "telemetry.otlp" "keys" (list "headersSecret") "reason" "telemetry.otlp.endpoint is empty: nothing is sent") -}}
{{- end -}}

{{- $tags := dict "image.tag" .Values.image.tag "objectStore.bundled.image.tag" $store.bundled.image.tag "broker.bundled.image.tag" $broker.bundled.image.tag -}}
{{- range $major, $tag := .Values.compute.postgresImage.tags -}}
{{- $_ := set $tags (printf "compute.postgresImage.tags.%s" $major) $tag -}}
{{- end -}}
{{- range $path, $tag := $tags -}}
{{- if eq (toString $tag) "latest" -}}
{{- fail (printf "%s is latest, which is another image from one day to the next: name a version" $path) -}}
{{- end -}}
{{- end -}}

{{- include "understory.requireSecret" (dict "root" . "path" "auth.existingSecret" "name" .Values.auth.existingSecret "keys" (list .Values.auth.tokenKey)) -}}
{{- include "understory.requireSecret" (dict "root" . "path" "tls.existingSecret" "name" $tls.existingSecret "keys" (list "tls.crt" "tls.key" "ca.crt")) -}}
{{- include "understory.requireSecret" (dict "root" . "path" "objectStore.external.existingSecret" "name" $store.external.existingSecret "keys" (list $store.external.accessKeyIdKey $store.external.secretAccessKeyKey)) -}}
{{- include "understory.requireSecret" (dict "root" . "path" "broker.external.existingSecret" "name" $broker.external.existingSecret "keys" (list $broker.external.passwordKey)) -}}
{{- include "understory.requireSecret" (dict "root" . "path" "telemetry.otlp.headersSecret" "name" .Values.telemetry.otlp.headersSecret "keys" (list "headers")) -}}
{{- end -}}
