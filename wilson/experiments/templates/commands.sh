{% macro assigned(name, values, indent="") %}
{{ indent }}{{ name }}=(
{% for value in values %}
{{ indent }}  {{ value | quote }}
{% endfor %}
{{ indent }}){% endmacro %}
{% if array %}
case $SLURM_ARRAY_TASK_ID in
{% for command in commands %}
{{ loop.index0 }})
  base={{ command.base | quote }}
{{ assigned("train", command.arguments, "  ") }}
{{ assigned("folders", command.folders, "  ") }}
  ;;
{% endfor %}
esac
if [ -n "$base" ] && ! grep -Eqs '^ *"state": "finished",?$' "$base/status.json"; then
  echo "wilson: not started: its base failed: $base" >&2
  exit 2
fi
{% else %}
{{ assigned("train", commands[0].arguments) }}
{{ assigned("folders", commands[0].folders) }}
{% endif %}
