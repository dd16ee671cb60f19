"""What a broker must be before a job's number is trusted to it. Asks Redis, changes nothing there."""

from typing import Any

import redis

from casework.config_queue import Queue
from casework.errors import Defect

OLDEST = (7, 0)  # 6.2 and older get no security fixes any more; permissions by selector begin here
_FOREIGN_KEY = "casework-permission-probe"


def refuse_unsafe_redis(client: "redis.Redis", queue: Queue) -> None:
    """Refuse a Redis that could forget the queue, or a user who may do more than ring.

    Raises:
        Defect: CONFIG_INVALID, saying what to change.
        redis.exceptions.RedisError: it can't be asked.
    """
    try:
        info: dict[str, Any] = client.info("everything")
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise Defect("CONFIG_INVALID", f"queue.url: {type(error).__name__}") from error
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < OLDEST:
        raise Defect("CONFIG_INVALID", f"queue.url: Redis {info['redis_version']}; 7.0 or newer is needed")
    if info.get("maxmemory_policy") != "noeviction":
        raise Defect("CONFIG_INVALID", "queue.url: set maxmemory-policy noeviction; another one drops queues")
    if not int(info.get("aof_enabled", 0)):
        raise Defect("CONFIG_INVALID", "queue.url: set appendonly yes; without it a restart forgets every message")
    wide = "queue.url: this user may do more than ring (deploy/redis/users.acl has the commands that are needed)"
    for command in (("CONFIG", "GET", "port"), ("ACL", "WHOAMI"), ("EXISTS", _FOREIGN_KEY)):
        try:
            client.execute_command(*command)
        except redis.exceptions.NoPermissionError:
            continue
        if not queue.any_redis_user:
            raise Defect("CONFIG_INVALID", wide)


def refuse_unsafe_app(conf: Any, url: str) -> None:
    """Celery reads CELERY_* from the environment before its own settings: refuse what that must not change.

    Raises:
        Defect: CONFIG_INVALID.
    """
    must = {
        "result_backend": None,
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
    }
    for name, value in must.items():
        if getattr(conf, name) != value:
            raise Defect("CONFIG_INVALID", f"Celery's {name} was changed (CELERY_* in the environment?)")
    if {conf.broker_url, conf.broker_read_url, conf.broker_write_url} != {url}:
        raise Defect("CONFIG_INVALID", "Celery's broker was changed (CELERY_BROKER_* in the environment?)")
